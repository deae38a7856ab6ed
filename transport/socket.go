package transport

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"ginnel/internal/sys"
)

// PacketConn is a UDP socket, such as *net.UDPConn.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// socket is a PacketConn that sends and receives in batches.
type socket struct {
	*sys.UDPSocket
	c PacketConn
}

// socketBuffer is the size in bytes that is asked for in each direction; the kernel may grant less.
const socketBuffer = 7 << 20

func newSocket(c PacketConn) (*socket, error) {
	if uc, ok := c.(*net.UDPConn); ok {
		if err := sys.AllowFragments(uc); err != nil {
			return nil, err
		}
	}
	s, err := sys.NewUDPSocket(c)
	if err != nil {
		return nil, err
	}
	s.SetBuffers(socketBuffer)
	return &socket{s, c}, nil
}

// port returns the local port, 0 if it is not known.
func (s *socket) port() uint16 {
	if a, ok := s.c.LocalAddr().(*net.UDPAddr); ok {
		return a.AddrPort().Port()
	}
	return 0
}

// isUnreachable reports whether a send error means that this host has no route to the destination.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL)
}
