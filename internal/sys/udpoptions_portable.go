//go:build !linux || ginnel_stdnet

package sys

import (
	"errors"
	"net"
)

func allowFragments(*net.UDPConn) error { return nil }

func shareUDPPort(*net.UDPConn, string, int, byte) ([]*net.UDPConn, error) {
	return nil, errors.ErrUnsupported
}
