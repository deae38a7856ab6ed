// Package hostsock is TCP on the host's own network for those who open and close many connections.
// On Linux it accepts, connects, reads, writes and ends them by nonblock's system calls, of which
// Go's scheduler is not told: package net tells it of each, and each wakes the runtime's monitor
// thread in a process that was idle, which then looks around every 20 microseconds. It also asks
// for less: what a listener is set to, its connections are.
//
// Elsewhere it is package net.
//
// Goroutines: none of its own. The descriptors of connections that have ended are closed by a
// timer.
package hostsock
