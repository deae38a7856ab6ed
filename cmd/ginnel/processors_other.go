//go:build !linux

package main

import "runtime"

// paceProcessors leaves the choice to Go's runtime, but within a small budget: there is no way
// known to learn what is used.
func (r *runningNode) paceProcessors(budget int64) {
	if budget < frugalMemory {
		runtime.GOMAXPROCS(1)
		defer runtime.SetDefaultGOMAXPROCS()
		<-r.endc
	}
}
