package main

import "time"

// This file decides how many of the machine's processors a node uses at a time. With more than one, Go wakes another thread
// whenever a goroutine becomes ready, to see whether it can be of help. A packet makes two or three ready that have little to
// do, so that the waking takes longer than the work, and more of the processors. So a node keeps to one until that has no time
// left, and then uses all that it may.

const (
	busyLook  = 20 * time.Millisecond // between two looks at what is used
	quietLook = 200 * time.Millisecond

	quietLoad = 0.1 // of one processor
	calmLoad  = 0.7 // is for one again
	fullLoad  = 0.9 // is all that one gives

	minCalm = time.Second // of such a load before one is tried again
	maxCalm = 30 * time.Second
)

// pacer decides whether a load is for more than one processor. The zero value begins with one.
type pacer struct {
	wide     bool
	since    time.Duration // for how long it has been so; while wide, for how long the load has been calm
	patience time.Duration // how long that has to be for one to be tried; 0: minCalm
}

// look takes the load of some time, and reports whether wide has changed.
func (p *pacer) look(elapsed time.Duration, load float64) bool {
	p.patience = max(p.patience, minCalm)
	p.since += elapsed
	switch {
	case p.wide && load >= calmLoad:
		p.since = 0
		return false
	case p.wide && p.since < p.patience, !p.wide && load < fullLoad:
		return false
	case p.wide:
	case p.since < p.patience: // one was enough for a short time only
		p.patience = min(2*p.patience, maxCalm)
	default:
		p.patience = minCalm
	}
	p.wide, p.since = !p.wide, 0
	return true
}

// pauseAt is how long a node of that load is not looked at.
func pauseAt(load float64) time.Duration {
	if load < quietLoad {
		return quietLook
	}
	return busyLook
}
