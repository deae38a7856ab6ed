//go:build linux && ginnel_stdnet

package sys

import (
	"net"

	"golang.org/x/sys/unix"
)

// The calls of stream_linux.go made in the normal way, which tells the scheduler.

const (
	rawStreams     = true
	hasNonblocking = true

	pollIn    = unix.POLLIN
	pollOut   = unix.POLLOUT
	pollErr   = unix.POLLERR
	pollHup   = unix.POLLHUP
	pollRdHup = unix.POLLRDHUP
)

func isTCP(x any) bool {
	_, ok := x.(*net.TCPConn)
	return ok
}

func read(fd uintptr, b []byte) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = unix.Read(int(fd), b)
	}
	return max(n, 0), err
}

func write(fd uintptr, b []byte) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	return max(n, 0), err
}

func waiting(fd uintptr) (int, error) { return unix.IoctlGetInt(int(fd), unix.SIOCINQ) }

func poll(fd uintptr, events int16) int16 {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	for err := error(unix.EINTR); err == unix.EINTR; {
		_, err = unix.Poll(fds[:], 0)
	}
	return fds[0].Revents
}
