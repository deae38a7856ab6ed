package tuning

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// This file gives memory back to the kernel once the process is idle: free memory of the heap, and
// pages of the program's own file.
//
// Why: Go's runtime keeps what the heap has freed for minutes, and the kernel keeps the pages of
// the program until memory is short, while a node waits for hours. What is needed again comes back
// within a millisecond.
//
// Gain (docs/performance.md): a node that has joined and is idle has 6 to 12 MB resident instead of
// 19; with go1.26.8, 8.9 MB instead of 26.4.
//
// Benchmark: "resident, joined and idle" of make bench-peers PEERS='-only ginnel -steps ^quiet$',
// with GINNEL_TUNING=off in the environment of one of two runs.

const (
	// trimInterval is how long the process has to be quiet before it gives memory back, and the time
	// between two looks at it.
	trimInterval = time.Second

	// Rare work of a quiet process brings pages back, and giving them back costs more than that work.
	// So a quiet process gives memory back again only when it has been quiet for 1/trimBackoff
	// longer, or for maxTrimPause longer if that is less.
	trimBackoff  = 4
	maxTrimPause = 5 * time.Minute

	// After restAfter of quiet the process is not looked at until it works again.
	restAfter = time.Minute

	quietShare = 0.01 // of one processor: the most that a quiet node uses, for its heartbeats
	calmShare  = 0.1  // the most that thousands of idle connections use, for their keep-alives

	// Memory is given back when more than trimSlack bytes are resident beyond the working set. A
	// process between quietShare and calmShare produces garbage all the time, so calmSlack of the
	// working set is added for it.
	trimSlack = 2 << 20
	calmSlack = 0.25
)

// trimmer decides when memory is given back.
type trimmer struct {
	used       time.Duration // processor time at the last look
	quiet      time.Duration // for how long the process has been quiet
	due        time.Duration // the value of quiet from which memory may be given back again
	workingSet int64         // bytes resident one look after memory was given back
	trimmed    bool          // memory was given back after the last look, so what is resident now is the working set
}

// trimStep is what a trimmer wants done.
type trimStep uint8

const (
	watch     trimStep = iota // look again after trimInterval
	trim                      // give memory back now, then watch
	awaitDue                  // wait until more may be given back or the process works, then watch
	awaitWork                 // wait until the process works, then watch
)

// usage is what a trimmer learns of the process and does to it. processUsage implements it.
type usage interface {
	worked() time.Duration // processor time so far
	resident() int64       // bytes
	giveBack()
}

// trimWhenIdle goes on until Close.
func (p *Process) trimWhenIdle() {
	new(trimmer).run(processUsage{p.spinner.spentTime}, newWorkAlarm(), p.stopc)
}

// run looks at the process until stopc is closed. While it awaits work, no timer runs.
func (t *trimmer) run(u usage, work alarm, stopc <-chan struct{}) {
	timer := time.NewTimer(trimInterval)
	defer timer.Stop()
	for looked := time.Now(); ; {
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
		step := t.look(time.Since(looked), u.worked(), u.resident())
		looked = time.Now()
		worked := false
		switch step {
		case trim:
			u.giveBack()
			t.used = u.worked()
		case awaitDue:
			worked = work.await(t.due-t.quiet, stopc)
		case awaitWork:
			worked = work.await(forever, stopc)
		}
		if worked { // the next look is to see only what is used from now on
			t.used = u.worked()
			t.quiet += time.Since(looked)
			looked = time.Now()
		}
		timer.Reset(trimInterval)
	}
}

// look takes the time since the last look, the processor time that the process has used so far, and
// the bytes that are resident.
func (t *trimmer) look(elapsed, used time.Duration, resident int64) trimStep {
	share := float64(used-t.used) / float64(elapsed)
	t.used = used
	t.quiet += elapsed
	if share > quietShare {
		t.quiet, t.due = 0, 0
	}
	switch {
	case share > calmShare:
		t.trimmed = false // some of what is resident was needed for the work since
		return watch
	case t.trimmed:
		t.trimmed, t.workingSet = false, resident
		return watch
	case t.quiet < t.due:
		return t.wait()
	}
	slack := int64(trimSlack)
	if share > quietShare {
		slack += int64(calmSlack * float64(t.workingSet))
	}
	t.due = t.quiet + min(t.quiet/trimBackoff, maxTrimPause)
	t.trimmed = resident > t.workingSet+slack
	if t.trimmed {
		return trim
	}
	return t.wait()
}

// wait is the step when nothing is given back.
func (t *trimmer) wait() trimStep {
	switch {
	case t.quiet >= restAfter:
		return awaitWork
	case t.quiet > 0:
		return awaitDue
	}
	return watch
}

// processUsage is the usage of this process, without the processor time that spinning has used.
type processUsage struct{ spent func() time.Duration }

func (u processUsage) worked() time.Duration { return processorTime() - u.spent() }

func (processUsage) resident() int64 { return residentMemory() }

func (processUsage) giveBack() {
	runtime.GC() // a sync.Pool keeps its content through one collection
	debug.FreeOSMemory()
	trimProgram()
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
