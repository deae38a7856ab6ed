package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls block no P and are no tricks, so ginnel_stdnet does not replace them.

func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }

func isSubreaper() bool {
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	return err == nil && is != 0
}

func reap(pid int) { unix.Wait4(pid, nil, unix.WNOHANG, nil) }
