//go:build race && linux

package nonblock

import "syscall"

// The race detector takes it that what one goroutine did before it wrote to a socket comes before
// what another does that has read since; package syscall tells it so. Tests whose two ends are in
// one process would look wrong without: these calls do nothing else.

func beforeWrite()         { syscall.Write(-1, nil) }
func afterRead(fd uintptr) { syscall.Read(int(fd), nil) }
