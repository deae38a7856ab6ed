// Package hostsock is TCP on the host's own network for those who open and close many connections. On Linux all its system calls
// are nonblock's, of which Go's scheduler is not told: package net tells it of accept, connect, close and every option of a
// socket, and each of those wakes the runtime's monitor thread in a process that was idle, which then looks around every 20
// microseconds. It also asks for less: what a listener is set to, its connections are.
//
// Elsewhere it is package net.
package hostsock

import "time"

// What package net asks for, too: a peer that is gone without a word is noticed after two and a half minutes.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)
