package main

import "time"

// This file decides how many Ps the Go scheduler of a node has, one or all, and whether the node
// polls. With several Ps the scheduler wakes another thread whenever a goroutine becomes ready. A
// packet makes two or three goroutines ready that have little to do, so waking the thread costs
// more than their work. A node therefore keeps to one P until that has no time left or goroutines
// queue for it, and then takes all, unless other processes already occupy the processors: more
// threads would only compete with them. A node that does nothing does not look at its load at all;
// see rests.

const (
	busyLook  = 20 * time.Millisecond // between two looks at the load
	quietLook = 200 * time.Millisecond
	remember  = 100 * time.Millisecond // of averages

	restLoad  = 0.01 // of one processor; below it nothing is to be decided
	quietLoad = 0.1
	calmLoad  = 0.85 // is for one again
	fullLoad  = 0.95 // is all that one gives

	calmQueue = 0.75 // goroutines that wait, on average
	fullQueue = 1.25 // one connection in bulk makes some 0.8, eight make 1.4

	// spare processors are worth having. Two nodes in bulk and their clients leave 0.1 to 0.35 of two.
	spare = 0.5

	// pollSpare of a processor is what has to be left for it to be polled away.
	pollSpare = 0.1

	minCalm = time.Second // before one is tried again
	maxCalm = 30 * time.Second
)

// effort is what a node does in some time.
type effort struct {
	load  float64 // processors in use
	queue float64 // goroutines that wait for one
	idle  float64 // processors of the machine that nobody uses
}

// pacer decides whether the effort is for more than one processor. The zero value begins with one.
type pacer struct {
	recent   effort // average
	wide     bool
	since    time.Duration // for how long it has been so; while wide, for how long the effort has been calm
	patience time.Duration // how long that has to be for one to be tried; 0: minCalm
}

// look takes the effort of some time, and reports whether wide has changed.
func (p *pacer) look(elapsed time.Duration, e effort) bool {
	weight := min(1, float64(elapsed)/float64(remember))
	p.recent.load += weight * (e.load - p.recent.load)
	p.recent.queue += weight * (e.queue - p.recent.queue)
	p.recent.idle += weight * (e.idle - p.recent.idle)
	p.patience = max(p.patience, minCalm)
	p.since += elapsed
	// Others who have just begun need theirs already; those who pause for a moment do not give them
	// up.
	crowded := min(e.idle, p.recent.idle) < spare
	switch {
	case p.wide && !p.calm(crowded):
		p.since = 0
		return false
	case p.wide && p.since < p.patience, !p.wide && (crowded || !p.full()):
		return false
	case !p.wide && elapsed > remember:
		// Most of that time may have been quiet, and what was idle then is idle no more.
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

// calm reports whether one processor does as well as all. Where others want them too, who has less
// than one is served best by it.
func (p *pacer) calm(crowded bool) bool {
	if crowded {
		return p.recent.load < fullLoad
	}
	return p.recent.load < calmLoad && p.recent.queue < calmQueue
}

// full reports whether there is more to do than one processor can.
func (p *pacer) full() bool { return p.recent.load >= fullLoad || p.recent.queue >= fullQueue }

// rests reports whether the load is so low that the next look can wait until the process works
// again. A node with all Ps goes on looking, because it has to give them up after some time of
// calm.
func (p *pacer) rests(elapsed time.Duration, e effort) bool {
	return !p.wide && elapsed >= quietLook && e.load < restLoad
}

// polls reports whether to poll for packets, which is of use with one processor only; see package
// busypoll.
func (p *pacer) polls() bool { return !p.wide && p.recent.idle >= pollSpare }

// pauseAt is the time until the next look at a node with that load.
func pauseAt(load float64) time.Duration {
	if load < quietLoad {
		return quietLook
	}
	return busyLook
}

// pollBusily keeps the node awake while packets follow each other closely, until it has ended.
func (r *runningNode) pollBusily() {
	if err := r.poll.Run(r.endc); err != nil {
		r.log.Debug("not polling", "err", err)
	}
}
