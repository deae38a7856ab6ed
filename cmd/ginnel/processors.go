package main

import "runtime"

// fewProcessors are so few that the programs at both ends of a connection need them as well.
const fewProcessors = 2

// useProcessors has Go run one goroutine at a time where there are few processors. A packet passes from goroutine to
// goroutine; waking another thread for each costs more than a second processor gives when others want it. GOMAXPROCS wins.
func useProcessors(p program) {
	if p.getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) <= fewProcessors {
		runtime.GOMAXPROCS(1)
	}
}
