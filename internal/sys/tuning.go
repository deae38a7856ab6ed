package sys

import (
	"os"
	"time"
)

// This file is the face of the calls that package tuning makes. Where they are not supported each
// returns errors.ErrUnsupported, and tuning does without.

// ProcessorTime returns the processor time that the process has used so far, user and system time
// together.
func ProcessorTime() (time.Duration, error) { return processorTime() }

// YieldProcessor offers the processor to other threads of the machine that are ready to run
// (sched_yield(2)). The caller keeps its P, so it must not be called where that matters: the call
// returns only when the kernel has come back to this thread.
func YieldProcessor() { yieldProcessor() }

// DiscardPages tells the kernel that the pages from start to end are not needed for now
// (MADV_DONTNEED). It is safe only for a private mapping of a file that was never written to: the
// next access reads the page from the file again. Both addresses are multiples of the page size.
func DiscardPages(start, end uintptr) error { return discardPages(start, end) }

// StartWorkTimer has the kernel send WorkSignal to the process once the process has used d of user
// time from now on (ITIMER_VIRTUAL). A process has one such timer: a new start replaces the old
// one.
func StartWorkTimer(d time.Duration) error { return startWorkTimer(d) }

// WorkSignal is the signal of StartWorkTimer.
func WorkSignal() os.Signal { return workSignal }

// NewEventFD returns an eventfd that Go's network poller watches. Write to it with SignalEventFD.
func NewEventFD() (*os.File, error) { return newEventFD() }

// SignalEventFD makes the eventfd readable. The poller watches edges, so each call is reported once
// more, even if nobody has read the eventfd since the last one. The counter of an eventfd that
// nobody reads is full after 2^64 - 2 calls.
func SignalEventFD(fd uintptr) { signalEventFD(fd) }
