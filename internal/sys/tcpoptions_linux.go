//go:build linux && !ginnel_stdnet

package sys

import (
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func setUserTimeout(fd uintptr, d time.Duration) {
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

func setUnsentLimit(fd uintptr, bytes int) {
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

func readTCPState(fd uintptr) (TCPState, bool) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return TCPState{}, false
	}
	return TCPState{
		RTT:          time.Duration(info.Rtt) * time.Microsecond,
		MinRTT:       time.Duration(info.Min_rtt) * time.Microsecond,
		DeliveryRate: info.Delivery_rate,
		Sent:         info.Bytes_sent,
		Retrans:      info.Bytes_retrans,
	}, true
}

func setPacing(fd uintptr, rate uint64) {
	if rate == 0 {
		rate = math.MaxUint64
	}
	unix.SetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate)
}

func setCongestion(fd uintptr, name string) {
	unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
}

func congestion(fd uintptr) string {
	name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return ""
	}
	return strings.TrimRight(name, "\x00")
}
