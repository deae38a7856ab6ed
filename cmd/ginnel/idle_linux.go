package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// idleAfter is for how long a node has to be quiet, or calm, before it gives back memory.
	idleAfter = time.Second

	// idleShare of one processor is what a quiet node uses for its heartbeats.
	idleShare = 0.01

	// calmShare is what thousands of connections use that carry nothing but keep-alives.
	calmShare = 0.1

	// idleSlack more bytes than were left the last time are worth the trouble. While a node is not quiet, calmSlack of what was left
	// comes on top: it makes garbage, and part of that is always there.
	idleSlack = 2 << 20
	calmSlack = 0.25
)

// idler has a node give back what it held when it was busy: buffers, which Go's runtime would keep for minutes, and pages of
// the program, which the kernel would keep for ever. What is needed again comes back by itself, in less than a
// millisecond.
type idler struct {
	used  time.Duration // processor time at the last look
	floor int64         // bytes resident that cannot be given back, as far as is known
	given bool          // since the last look but one; what came back until the last is needed
}

// giveBackWhenIdle goes on until the node has ended.
func (r *runningNode) giveBackWhenIdle() {
	var i idler
	ticker := time.NewTicker(idleAfter)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if i.look(r.worked(), residentMemory()) {
				giveBack()
				i.used = r.worked()
			}
		case <-r.endc:
			return
		}
	}
}

// worked is the processor time that the node has used, but for what it polled away.
func (r *runningNode) worked() time.Duration { return processorTime() - r.poll.Spent() }

// look takes what the process has used and what it holds, and reports whether it is time to give back.
func (i *idler) look(used time.Duration, resident int64) bool {
	share := float64(used-i.used) / float64(idleAfter)
	i.used = used
	switch {
	case share > calmShare:
		i.given = false // nobody knows any more what of it was needed at once
		return false
	case i.given:
		i.given, i.floor = false, resident
		return false
	}
	slack := int64(idleSlack)
	if share > idleShare {
		slack += int64(calmSlack * float64(i.floor))
	}
	i.given = resident > i.floor+slack
	return i.given
}

func giveBack() {
	runtime.GC() // pools keep what they hold through one collection
	debug.FreeOSMemory()
	trimProgram()
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMemory is in bytes; 0 if it is not known.
func residentMemory() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), " ")
	pages, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(pages, 10, 64)
	if err != nil {
		return 0
	}
	return n * int64(os.Getpagesize())
}
