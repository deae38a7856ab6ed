//go:build linux && !ginnel_stdnet

package sys

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func processorTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

func yieldProcessor() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

func discardPages(start, end uintptr) error {
	_, _, errno := unix.RawSyscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
	if errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}

const workSignal = unix.SIGVTALRM

func startWorkTimer(d time.Duration) error {
	_, err := unix.Setitimer(unix.ITIMER_VIRTUAL, unix.Itimerval{Value: unix.NsecToTimeval(int64(d))})
	return os.NewSyscallError("setitimer", err)
}

func newEventFD() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}

func signalEventFD(fd uintptr) {
	one := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}
