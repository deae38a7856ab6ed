package relay

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long sent bytes may stay unacknowledged before the connection counts as dead (1.2).
const userTimeout = 15 * time.Second

// tuneSocket sets what Linux offers. Failures are ignored: the connection works without.
func tuneSocket(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(setSocketOptions)
}

func setSocketOptions(fd uintptr) {
	setUnsent(fd, mostUnsent)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
}

// setUnsent limits how many bytes the system holds that have not been sent yet.
func setUnsent(fd uintptr, limit int) {
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, limit)
}
