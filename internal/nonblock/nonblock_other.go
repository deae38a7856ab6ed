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
