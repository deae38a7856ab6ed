//go:build unix && !linux

package nonblock

import "golang.org/x/sys/unix"

// Elsewhere system calls go through the C library, which Go does not do without its scheduler.

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
