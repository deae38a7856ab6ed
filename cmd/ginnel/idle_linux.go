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

// This file gives memory back to the kernel once a node is quiet: buffers, which Go's runtime would
// keep for minutes, and pages of the program's file, which the kernel would keep for ever. What is
// needed again comes back within a millisecond.

const (
	// idleAfter is how long a node has to be quiet, or calm, before it gives memory back, and the time
	// between two looks.
	idleAfter = time.Second

	// What a quiet node does once in a while brings pages back, and giving them back costs more than
	// that. So a quiet node gives memory back again only when it has been quiet for 1/quietShare
	// longer, or maxPause longer.
	quietShare = 4
	maxPause   = 5 * time.Minute

	// restAfter is how long a node has to be quiet for not being looked at until it works.
	restAfter = time.Minute

	// idleShare of one processor is the most that a quiet node uses, for its heartbeats.
	idleShare = 0.01

	// calmShare of one processor is the most that thousands of connections use that carry nothing but
	// keep-alives.
	calmShare = 0.1

	// A node gives memory back when more than idleSlack bytes are resident beyond what was left the
	// last time. While it is calm but not quiet, calmSlack of what was left comes on top, because it
	// makes garbage all the time.
	idleSlack = 2 << 20
	calmSlack = 0.25
)

// idler decides when a node gives memory back.
type idler struct {
	used    time.Duration // processor time at the last look
	quiet   time.Duration // for how long the node has been quiet
	due     time.Duration // the value of quiet from which on memory may be given back again
	floor   int64         // bytes that were resident after memory was last given back
	trimmed bool          // memory was given back after the last look, so what is resident now is the working set
}

// idleStep is what an idler wants done.
type idleStep int

const (
	watch idleStep = iota // look again after idleAfter
	trim                  // give memory back now, then watch
	doze                  // nothing, until more may be given back; then watch
	rest                  // nothing; then watch
)

// usage is what an idler learns of the process, and what it does about it. processUsage implements
// it.
type usage interface {
	worked() time.Duration // processor time so far
	resident() int64       // bytes
	giveBack()
}

// giveBackWhenIdle goes on until the node has ended.
func (r *runningNode) giveBackWhenIdle() {
	new(idler).run(processUsage{r.poll.Spent}, newWorkAlarm(), r.endc)
}

// run looks at the process until stopc is closed. When the process works, dozing and resting end.
// While i rests, no timer runs.
func (i *idler) run(u usage, work alarm, stopc <-chan struct{}) {
	timer := time.NewTimer(idleAfter)
	defer timer.Stop()
	for looked := time.Now(); ; {
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
		step := i.look(time.Since(looked), u.worked(), u.resident())
		looked = time.Now()
		worked := false
		switch step {
		case trim:
			u.giveBack()
			i.used = u.worked()
		case doze:
			worked = work.await(i.due-i.quiet, stopc)
		case rest:
			worked = work.await(forever, stopc)
		}
		if worked { // the next look is to see only what is used from now on
			i.used = u.worked()
			i.quiet += time.Since(looked)
			looked = time.Now()
		}
		timer.Reset(idleAfter)
	}
}

// look takes the time since the last look, the processor time that the process has used so far, and
// the bytes that are resident.
func (i *idler) look(elapsed, used time.Duration, resident int64) idleStep {
	share := float64(used-i.used) / float64(elapsed)
	i.used = used
	i.quiet += elapsed
	if share > idleShare {
		i.quiet, i.due = 0, 0
	}
	switch {
	case share > calmShare:
		i.trimmed = false // part of what is resident was needed for the work since
		return watch
	case i.trimmed:
		i.trimmed, i.floor = false, resident
		return watch
	case i.quiet < i.due:
		return i.wait()
	}
	slack := int64(idleSlack)
	if share > idleShare {
		slack += int64(calmSlack * float64(i.floor))
	}
	i.due = i.quiet + min(i.quiet/quietShare, maxPause)
	i.trimmed = resident > i.floor+slack
	if i.trimmed {
		return trim
	}
	return i.wait()
}

// wait is what to do while nothing is given back.
func (i *idler) wait() idleStep {
	switch {
	case i.quiet >= restAfter:
		return rest
	case i.quiet > 0:
		return doze
	}
	return watch
}

// processUsage is the usage of this process, without the processor time that was polled away.
type processUsage struct{ polled func() time.Duration }

func (u processUsage) worked() time.Duration { return processorTime() - u.polled() }

func (processUsage) resident() int64 { return residentMemory() }

func (processUsage) giveBack() {
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
