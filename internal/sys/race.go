//go:build race && linux && !ginnel_stdnet

package sys

import "syscall"

// Package syscall tells the race detector that what a goroutine did before it wrote to a descriptor
// happens before what another does after it has read from one. Raw calls do not. Without it, tests
// that have both ends of a connection in one process would report races that are none. These calls
// fail at once and do nothing else.

func beforeWrite()         { syscall.Write(-1, nil) }
func afterRead(fd uintptr) { syscall.Read(int(fd), nil) }
