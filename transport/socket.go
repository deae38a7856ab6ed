package transport

import (
	"net"
	"net/netip"
	"time"
)

// PacketConn is a UDP socket as the transport uses it. *net.UDPConn is one.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
	Close() error
}

// socket is a UDP socket that moves batches. One goroutine may read; any number may write.
type socket interface {
	// readBatch blocks until there is at least one datagram and fills bufs, sizes and from in step.
	readBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error)
	// writeBatch sends bufs to one address, in order. Datagrams that the system refuses for want of room or by a
	// firewall are dropped and counted; an error means that nothing more can be sent there.
	writeBatch(bufs [][]byte, to netip.AddrPort) error
	// interrupt makes a blocked readBatch return an error; resume undoes it.
	interrupt()
	resume()
	localPort() uint16
	close() error
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// plainSocket moves one datagram at a time: the way of systems without batches, and of simulated networks.
type plainSocket struct {
	c     PacketConn
	drops *counters
}

func (s plainSocket) readBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error) {
	n, addr, err := s.c.ReadFromUDPAddrPort(bufs[0])
	if err != nil {
		return 0, err
	}
	sizes[0], from[0] = n, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return 1, nil
}

func (s plainSocket) writeBatch(bufs [][]byte, to netip.AddrPort) error {
	for _, b := range bufs {
		_, err := s.c.WriteToUDPAddrPort(b, to)
		if isDrop(err) {
			s.drops.udpSendDrops.Add(1)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s plainSocket) interrupt() { s.c.SetReadDeadline(past) }
func (s plainSocket) resume()    { s.c.SetReadDeadline(time.Time{}) }
func (s plainSocket) close() error {
	return s.c.Close()
}

func (s plainSocket) localPort() uint16 {
	if a, ok := s.c.LocalAddr().(*net.UDPAddr); ok {
		return a.AddrPort().Port()
	}
	return 0
}
