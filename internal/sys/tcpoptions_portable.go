//go:build !linux || ginnel_stdnet

package sys

import "time"

func setUserTimeout(uintptr, time.Duration) {}
func setUnsentLimit(uintptr, int)           {}
func readTCPState(uintptr) (TCPState, bool) { return TCPState{}, false }
func setPacing(uintptr, uint64)             {}
func setCongestion(uintptr, string)         {}
func congestion(uintptr) string             { return "" }
