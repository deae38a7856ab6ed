package load

import (
	"fmt"
	"net"
	"syscall"
)

// Congestion is the name that Linux has for a congestion control. The empty one leaves the system's.
type Congestion string

// The congestion controls that can be asked for.
const (
	CUBIC Congestion = "cubic"
	BBR   Congestion = "bbr"
)

// congestions are the codes that stand for congestion controls in a request.
var congestions = []Congestion{"", CUBIC, BBR}

// code of one that is not known is one that the service refuses.
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
		return "", fmt.Errorf("load: there is no congestion control %d", code)
	}
	return congestions[code], nil
}

// Control sets the congestion control of a socket before it connects or listens; it is a [net.Dialer]'s or
// [net.ListenConfig]'s Control.
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

// apply does the same for a connection.
func (cc Congestion) apply(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return cc.Control("", "", raw)
}
