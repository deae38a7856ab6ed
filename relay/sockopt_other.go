//go:build !linux

package relay

import "net"

// tuneSocket has nothing to set here.
func tuneSocket(*net.TCPConn) {}

// setUnsent has nothing to set here.
func setUnsent(uintptr, int) {}
