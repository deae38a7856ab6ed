package derp

import (
	"net"
	"time"

	"ginnel/internal/sys"
)

// userTimeout is how long sent bytes may stay unacknowledged before the connection counts as dead
// (1.2).
const userTimeout = 15 * time.Second

// tuneSocket sets the options of a connection to a client or to a server.
func tuneSocket(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(setSocketOptions)
}

func setSocketOptions(fd uintptr) {
	sys.SetUnsentLimit(fd, mostUnsent)
	sys.SetUserTimeout(fd, userTimeout)
}

// setCongestion asks for the congestion control c.
func setCongestion(fd uintptr, c congestion) {
	switch c {
	case notBBR: // any other choice of the kernel stays
		if sys.Congestion(fd) == "bbr" {
			sys.SetCongestion(fd, "cubic")
		}
	case useBBR:
		sys.SetCongestion(fd, "bbr")
	}
}
