//go:build unix && !linux

package sys

import "golang.org/x/sys/unix"

// Normal calls, which tell the scheduler. Raw calls are for Linux: other systems make system calls
// through the C library.

const (
	rawStreams     = false
	hasNonblocking = true

	pollIn    = unix.POLLIN
	pollOut   = unix.POLLOUT
	pollErr   = unix.POLLERR
	pollHup   = unix.POLLHUP
	pollRdHup = 0
)

func isTCP(any) bool { return false }

func waiting(uintptr) (int, error) { return 0, unix.ENOTSUP }

func read(fd uintptr, b []byte) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = unix.Read(int(fd), b)
	}
	return max(n, 0), err
}

func write(fd uintptr, b []byte) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = unix.Write(int(fd), b)
	}
	return max(n, 0), err
}

func poll(fd uintptr, events int16) int16 {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	for err := error(unix.EINTR); err == unix.EINTR; {
		_, err = unix.Poll(fds[:], 0)
	}
	return fds[0].Revents
}
