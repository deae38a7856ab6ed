package load

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// datagramBuffer is the size of the socket buffers at both ends, so that losses happen in the
// programs under test and not here.
const datagramBuffer = 8 << 20

// enlargeBuffers gives a socket large buffers, beyond the system's limit if the process has the
// right to.
func enlargeBuffers(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct{ force, plain int }{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
			{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.force, datagramBuffer) != nil {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.plain, datagramBuffer)
			}
		}
	})
}

// pause sleeps precisely for d, which may be shorter than the millisecond to which Go's timers
// round.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&t, nil)
}

func setCongestion(fd uintptr, cc Congestion) error {
	return unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, string(cc))
}
