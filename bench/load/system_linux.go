package load

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// datagramBuffer is what the ends of a measurement may have waiting, so that what is lost was lost
// on the way.
const datagramBuffer = 8 << 20

// enlarge gives a socket large buffers, beyond the limit of the system where the process may do
// that.
func enlarge(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct{ force, plain int }{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.force, datagramBuffer) != nil {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.plain, datagramBuffer)
			}
		}
	})
}

// pause sleeps for a time that may be shorter than the millisecond to which the timers of Go round.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&t, nil)
}

func setCongestion(fd uintptr, cc Congestion) error {
	return unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, string(cc))
}
