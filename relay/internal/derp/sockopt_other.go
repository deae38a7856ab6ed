//go:build !linux

package derp

import "net"

// tuneSocket has nothing to set here.
func tuneSocket(*net.TCPConn) {}

// setUnsent has nothing to set here.
func setUnsent(uintptr, int) {}

// readTCPState knows nothing here, so that no connection is paced.
func readTCPState(uintptr) (tcpState, bool) { return tcpState{}, false }

// setPacing has nothing to set here.
func setPacing(uintptr, uint64) {}

// setCongestion has nothing to set here.
func setCongestion(uintptr, congestion) {}
