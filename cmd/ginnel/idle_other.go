//go:build !linux

package main

// giveBackWhenIdle does nothing: there is no way known to give pages of the program back, and Go's
// runtime gives back the rest.
func (r *runningNode) giveBackWhenIdle() {}
