package derp

import (
	"math"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long sent bytes may stay unacknowledged before the connection counts as dead
// (1.2).
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

// readTCPState reads what the system knows about a connection.
func readTCPState(fd uintptr) (tcpState, bool) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return tcpState{}, false
	}
	return tcpState{
		rtt:          time.Duration(info.Rtt) * time.Microsecond,
		minRTT:       time.Duration(info.Min_rtt) * time.Microsecond,
		deliveryRate: info.Delivery_rate,
		sent:         info.Bytes_sent,
		retrans:      info.Bytes_retrans,
	}, true
}

// setPacing limits the rate at which the system sends, in bytes a second; 0 removes the limit.
func setPacing(fd uintptr, rate uint64) {
	if rate == 0 {
		rate = math.MaxUint64
	}
	unix.SetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate)
}

// setCongestion asks for a congestion control. The system may not have it or not allow it.
func setCongestion(fd uintptr, c congestion) {
	switch c {
	case notBBR: // any other choice of the system's stays
		if name, err := congestionControl(fd); err == nil && name == "bbr" {
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		}
	case useBBR:
		unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	}
}

// congestionControl returns the name of the congestion control that a connection uses.
func congestionControl(fd uintptr) (string, error) {
	name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	return strings.TrimRight(name, "\x00"), err
}
