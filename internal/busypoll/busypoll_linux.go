package busypoll

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux is the system with a descriptor that is ready as soon as it is written to.
type linux struct {
	f     *os.File
	raw   syscall.RawConn
	tryf  func(fd uintptr) bool // try, made once
	tried bool
}

func newSystem() (system, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	l := &linux{f: os.NewFile(uintptr(fd), "eventfd")}
	if l.raw, err = l.f.SyscallConn(); err != nil {
		l.f.Close()
		return nil, err
	}
	l.tryf = l.try
	return l, nil
}

func (l *linux) close() { l.f.Close() }

func (l *linux) yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

func (l *linux) await() {
	l.tried = false
	l.raw.Read(l.tryf)
}

// try writes and reports that there is nothing to read yet. So its goroutine waits until the
// scheduler learns of what was written, which it does at its next look: the kernel tells of every
// write, though nothing is ever read.
func (l *linux) try(fd uintptr) bool {
	if l.tried {
		return true
	}
	l.tried = true
	one := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
	return false
}
