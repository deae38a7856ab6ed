package proxy

import (
	"net"
	"net/netip"

	"ginnel/internal/sys"
)

// packetSource is the receiving side of a datagram socket. One goroutine uses it.
type packetSource interface {
	// wait blocks until receive has something to return. If that cannot be known, wait returns at once
	// and receive blocks.
	wait() error
	// batches reports whether receive can return several datagrams. If so, receive does not block.
	batches() bool
	// receive fills b.data and b.from with the datagrams that have arrived; there may be none.
	receive(b *datagramBatch) error
}

// batchReader is what a socket of the network behind the Server may implement, so that a batch
// costs one call.
type batchReader interface {
	// AwaitRead blocks until there may be a datagram to read.
	AwaitRead() error
	// ReadBatch reads the datagrams that have arrived, without waiting, one into each of bufs. It
	// returns their number.
	ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error)
}

// newPacketSource returns the packetSource of pc.
func (s *Server) newPacketSource(pc net.PacketConn) (packetSource, error) {
	switch pc := pc.(type) {
	case *net.UDPConn:
		return s.newHostSource(pc)
	case batchReader:
		return batchSource{pc}, nil
	}
	return singleSource{datagramsOf(pc), readinessOf(pc)}, nil
}

// newConnSource returns the packetSource of c, which is connected.
func (s *Server) newConnSource(c net.Conn) (packetSource, error) {
	if pc, ok := c.(net.PacketConn); ok {
		return s.newPacketSource(pc)
	}
	if r, ok := c.(batchReader); ok {
		return batchSource{r}, nil
	}
	return connSource{c}, nil
}

// newSlottedSource returns a packetSource that receives each datagram into a slot of its own, with
// room for a header before the data. If pc is not a batchReader, only its ReadFrom is used, because
// its addresses may be host names, which faster methods cannot return.
func newSlottedSource(pc net.PacketConn) packetSource {
	if r, ok := pc.(batchReader); ok {
		return batchSource{r}
	}
	return singleSource{allocatingDatagrams{pc}, readinessOf(pc)}
}

// hostSource receives from a UDP socket of the host.
type hostSource struct {
	sock  *sys.UDPSocket
	ready readiness
}

func (s *Server) newHostSource(c *net.UDPConn) (*hostSource, error) {
	sock, err := sys.NewUDPSocket(c)
	if err != nil {
		return nil, err
	}
	sock.SetBuffers(s.socketBuffer())
	return &hostSource{sock, readinessOf(c)}, nil
}

func (s *hostSource) wait() error   { return s.ready.wait() }
func (s *hostSource) batches() bool { return s.sock.Batches() }

func (s *hostSource) receive(b *datagramBatch) error {
	b.data, b.from = b.data[:0], b.from[:0]
	if err := s.sock.Receive(b.udp); err != nil {
		return err
	}
	for {
		data, from, ok := b.udp.Next(b.data)
		if !ok {
			return nil
		}
		b.data = data
		for len(b.from) < len(data) {
			b.from = append(b.from, from)
		}
	}
}

// batchSource receives from a batchReader.
type batchSource struct{ r batchReader }

func (s batchSource) wait() error { return s.r.AwaitRead() }
func (batchSource) batches() bool { return true }

func (s batchSource) receive(b *datagramBatch) error {
	b.data, b.from = b.data[:0], b.from[:len(b.slots)]
	n, err := s.r.ReadBatch(b.slots, b.sizes, b.from)
	for i := range n {
		b.data = append(b.data, b.slots[i][:b.sizes[i]])
	}
	b.from = b.from[:n]
	return err
}

// singleSource receives one datagram at a time from a socket that is not connected.
type singleSource struct {
	d     datagrams
	ready readiness
}

func (s singleSource) wait() error { return s.ready.wait() }
func (singleSource) batches() bool { return false }

func (s singleSource) receive(b *datagramBatch) error {
	b.data, b.from = b.data[:0], b.from[:0]
	n, from, err := s.d.ReadFromUDPAddrPort(b.slots[0])
	if err == nil {
		b.data, b.from = append(b.data, b.slots[0][:n]), append(b.from, from)
	}
	return err
}

// connSource receives one datagram at a time from a connected socket.
type connSource struct{ c net.Conn }

func (connSource) wait() error   { return nil }
func (connSource) batches() bool { return false }

func (s connSource) receive(b *datagramBatch) error {
	b.data, b.from = b.data[:0], b.from[:0]
	n, err := s.c.Read(b.slots[0])
	if err == nil {
		b.data, b.from = append(b.data, b.slots[0][:n]), append(b.from, netip.AddrPort{})
	}
	return err
}

// corker is what a socket of the network behind the Server may implement: the datagrams that are
// written between Cork and Uncork leave together.
type corker interface {
	Cork()
	Uncork()
}

// corked calls write with c corked. c may be nil, for a socket that is not a corker.
func corked(c corker, write func()) {
	if c != nil {
		c.Cork()
		defer c.Uncork()
	}
	write()
}
