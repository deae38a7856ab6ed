package tuning

import "time"

const (
	busyInterval  = 20 * time.Millisecond // between two measurements of the load
	quietInterval = 200 * time.Millisecond
	averageOver   = 100 * time.Millisecond

	// Processor time used, in processors.
	idleUsed      = 0.01 // at most this: nothing has to be decided
	quietUsed     = 0.1  // below this: measure at quietInterval
	oneEnoughUsed = 0.85 // below this one P is enough again
	oneFullUsed   = 0.95 // from this on one P has no time left

	// Goroutines that wait for a P, on average. One bulk connection makes 0.8, eight make 1.4.
	oneEnoughQueued = 0.75
	oneFullQueued   = 1.25

	// Processors of the machine that nobody uses. Two nodes in bulk and their clients leave 0.1 to
	// 0.35 of two processors idle.
	idleForAll  = 0.5 // needed for all Ps
	idleForSpin = 0.1 // needed for spinning

	minHold = time.Second // how long one P must be enough before it is tried again
	maxHold = 30 * time.Second
)

// load is what the process and the machine did in some time.
type load struct {
	used   float64 // processors that the process used
	queued float64 // goroutines that waited for a P
	idle   float64 // processors of the machine that nobody used
}

// policy chooses between one P and all Ps. It has no clock. The zero value begins with one P.
type policy struct {
	average load
	useAll  bool

	// since is how long the choice has stood. With all Ps, it is how long one P would have been
	// enough.
	since time.Duration
	hold  time.Duration // how long one P must be enough before it is tried; 0 means minHold
}

// update takes the load of the time since the last update, and reports whether the choice has
// changed.
func (p *policy) update(elapsed time.Duration, l load) (changed bool) {
	weight := min(1, float64(elapsed)/float64(averageOver))
	p.average.used += weight * (l.used - p.average.used)
	p.average.queued += weight * (l.queued - p.average.queued)
	p.average.idle += weight * (l.idle - p.average.idle)
	p.hold = max(p.hold, minHold)
	p.since += elapsed
	// The lower value counts: other processes that have just begun need their processors already, and
	// a short pause of theirs frees none.
	crowded := min(l.idle, p.average.idle) < idleForAll
	if p.useAll {
		enough := p.oneEnough()
		if crowded {
			enough = p.oneEnoughBesideOthers()
		}
		return p.leaveAll(enough)
	}
	if crowded || !p.oneFull() || elapsed > averageOver {
		// Of a long interval most may have been quiet, so its idle processors may be in use by now.
		return false
	}
	if p.since < p.hold { // one P was enough for a short time only
		p.hold = min(2*p.hold, maxHold)
	} else {
		p.hold = minHold
	}
	p.useAll, p.since = true, 0
	return true
}

// leaveAll goes back to one P if that has been enough for long, and reports whether it does.
func (p *policy) leaveAll(enough bool) bool {
	switch {
	case !enough:
		p.since = 0
		return false
	case p.since < p.hold:
		return false
	}
	p.useAll, p.since = false, 0
	return true
}

// oneEnough reports whether one P would do the work as well as all.
func (p *policy) oneEnough() bool {
	return p.average.used < oneEnoughUsed && p.average.queued < oneEnoughQueued
}

// oneEnoughBesideOthers is oneEnough on a machine that other processes keep busy. Load below one
// full processor is enough to say so, because more threads would only compete with the others.
func (p *policy) oneEnoughBesideOthers() bool { return p.average.used < oneFullUsed }

// oneFull reports whether there is more work than one P can do.
func (p *policy) oneFull() bool {
	return p.average.used >= oneFullUsed || p.average.queued >= oneFullQueued
}

// mayStop reports whether the load is so low that the next measurement can wait until the process
// works again. With all Ps measuring goes on, because they have to be given up some time later.
func (p *policy) mayStop(elapsed time.Duration, l load) bool {
	return !p.useAll && elapsed >= quietInterval && l.used < idleUsed
}

// maySpin reports whether spinning is of use. With several Ps it is not; see spin.go.
func (p *policy) maySpin() bool { return !p.useAll && p.average.idle >= idleForSpin }

// interval is the time until the next measurement of a process that uses so many processors.
func interval(used float64) time.Duration {
	if used < quietUsed {
		return quietInterval
	}
	return busyInterval
}
