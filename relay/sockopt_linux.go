package relay

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// notSentLimit is how many bytes a socket may hold that have not been sent yet. More would only wait in the system,
// where nobody can drop or reorder them; what is on its way is not counted, so it costs no throughput.
const notSentLimit = 128 << 10

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
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLimit)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
}
