//go:build linux && !ginnel_stdnet

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	rawStreams     = true
	hasNonblocking = true

	pollIn    = unix.POLLIN
	pollOut   = unix.POLLOUT
	pollErr   = unix.POLLERR
	pollHup   = unix.POLLHUP
	pollRdHup = unix.POLLRDHUP
)

// A pointer must be converted to uintptr in the call expression itself: only then does the compiler
// keep what it points to alive (package unsafe, pattern 4).

func read(fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// write uses sendto(2) because write(2) has no MSG_NOSIGNAL.
func write(fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

func waiting(fd uintptr) (int, error) {
	var n int32
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.SIOCINQ, uintptr(unsafe.Pointer(&n)))
	return result(uintptr(n), errno)
}

func poll(fd uintptr, events int16) int16 {
	p := unix.PollFd{Fd: int32(fd), Events: events}
	var none unix.Timespec
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&none)), 0,
			0, 0)
		if errno != unix.EINTR {
			return p.Revents
		}
	}
}

// splice moves up to n bytes between a pipe and a socket, in the kernel. At the end of a stream it
// returns 0 and no error.
func splice(from, to uintptr, n int) (int, error) {
	for {
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, from, 0, to, 0, uintptr(n),
			unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno != unix.EINTR {
			return result(moved, errno)
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
