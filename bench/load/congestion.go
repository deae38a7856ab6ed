package load

import (
	"fmt"
	"net"
	"syscall"
)

// Congestion is Linux's name of a congestion control algorithm. The empty name means the system's
// default.
type Congestion string

// The congestion controls that a request can name.
const (
	CUBIC Congestion = "cubic"
	BBR   Congestion = "bbr"
)

// congestions lists the algorithms in the order of their codes in a request.
var congestions = []Congestion{"", CUBIC, BBR}

// code returns the code in a request. For an unknown algorithm it returns one that the service
// refuses.
func (cc Congestion) code() byte {
	for i, known := range congestions {
		if cc == known {
			return byte(i)
		}
	}
	return 0xff
}

// congestionOf is the inverse of code.
func congestionOf(code byte) (Congestion, error) {
	if int(code) >= len(congestions) {
		return "", fmt.Errorf("load: unknown congestion control %d", code)
	}
	return congestions[code], nil
}

// Control sets the congestion control of a socket before it connects or listens. It is a Control
// function of [net.Dialer] and [net.ListenConfig].
func (cc Congestion) Control(_, _ string, raw syscall.RawConn) error {
	if cc == "" {
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) { failed = setCongestion(fd, cc) })
	if failed != nil {
		err = fmt.Errorf("choosing the congestion control %s: %w", cc, failed)
	}
	return err
}

// apply sets the congestion control of a connection.
func (cc Congestion) apply(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return cc.Control("", "", raw)
}
