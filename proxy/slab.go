package proxy

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/internal/sys"
)

const (
	slabSlots = 16 // datagrams that are moved at a time, each in 64 KiB of which only what is needed is in memory

	// maxSlabs are in use at a time; beside them there are slabs of one slot, so that those who are
	// held up, by the look-up of a name for instance, do not hold much.
	maxSlabs = 4
)

// slab is memory for datagrams while they are moved.
type slab struct {
	batch *sys.Batch
	owner *slabs           // nil for a small one
	data  [][]byte         // what was received last
	from  []netip.AddrPort // where each came from; invalid where the socket is connected
	bufs  [][]byte         // the slots, without room for a header before the data
	sizes []int
	out   [][]byte // what is to be sent
}

func newSlab(slots int) *slab {
	s := &slab{batch: sys.NewBatch(slots), from: make([]netip.AddrPort, slots), sizes: make([]int, slots)}
	for i := range slots {
		s.bufs = append(s.bufs, s.batch.Slot(i)[datagramHeader:])
	}
	return s
}

var (
	largeSlabs = sync.Pool{New: func() any { return newSlab(slabSlots) }}
	smallSlabs = sync.Pool{New: func() any { return newSlab(1) }}
)

// slabs are those of a Server.
type slabs struct{ large atomic.Int32 } // in use

// take returns a slab for what in brings.
func (l *slabs) take(in inlet) *slab {
	if !in.batches() {
		return smallSlabs.Get().(*slab)
	}
	if l.large.Add(1) > maxSlabs {
		l.large.Add(-1)
		return smallSlabs.Get().(*slab)
	}
	s := largeSlabs.Get().(*slab)
	s.owner = l
	return s
}

func (s *slab) free() {
	owner := s.owner
	if owner == nil {
		smallSlabs.Put(s)
		return
	}
	s.owner = nil
	largeSlabs.Put(s)
	owner.large.Add(-1)
}

// withHeader returns datagram i behind a header. It was received by a slottedInlet.
func (s *slab) withHeader(i int, header []byte) []byte {
	slot := s.batch.Slot(i)
	start := datagramHeader - len(header)
	copy(slot[start:], header)
	return slot[start : datagramHeader+len(s.data[i])]
}

// inlet is the receiving side of a datagram socket. One goroutine uses it.
type inlet interface {
	// await blocks until receive has something. Where that cannot be known it returns at once, and
	// receive blocks.
	await() error
	// batches reports whether receive can bring more than one datagram, for which it then does not
	// block.
	batches() bool
	// receive fills s.data and s.from with what has come, which may turn out to be nothing for us.
	receive(s *slab) error
}

// batchReader is what sockets of the network behind the Server may have, so that they are read as
// inlets are.
type batchReader interface {
	// AwaitRead blocks until there may be something to read.
	AwaitRead() error
	// ReadBatch reads what has come without waiting, one datagram into each of bufs, and returns how
	// many.
	ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error)
}

// inletOf returns the inlet of a net.PacketConn, or a net.Conn that is connected.
func (s *Server) inletOf(x any) (inlet, error) {
	switch x := x.(type) {
	case *net.UDPConn:
		return s.hostInlet(x)
	case batchReader:
		return batchInlet{x}, nil
	case net.PacketConn:
		return plainInlet{datagramsOf(x), readinessOf(x)}, nil
	default:
		return connInlet{x.(net.Conn)}, nil
	}
}

// slottedInlet returns an inlet that receives each datagram into a slot of its own, where there is
// room for a header before it. Of an unknown pc it calls ReadFrom, be there what else there may:
// with names for addresses it is no ordinary socket.
func slottedInlet(pc net.PacketConn) inlet {
	if r, ok := pc.(batchReader); ok {
		return batchInlet{r}
	}
	return plainInlet{allocatingDatagrams{pc}, readinessOf(pc)}
}

// hostInlet is that of a UDP socket of the host.
type hostInlet struct {
	sock  *sys.UDPSocket
	ready readiness
}

func (s *Server) hostInlet(c *net.UDPConn) (*hostInlet, error) {
	sock, err := sys.NewUDPSocket(c)
	if err != nil {
		return nil, err
	}
	sock.SetBuffers(s.socketBuffer())
	return &hostInlet{sock, readinessOf(c)}, nil
}

func (i *hostInlet) await() error  { return i.ready.wait() }
func (i *hostInlet) batches() bool { return i.sock.Batches() }

func (i *hostInlet) receive(s *slab) error {
	s.data, s.from = s.data[:0], s.from[:0]
	if err := i.sock.Receive(s.batch); err != nil {
		return err
	}
	for {
		data, from, ok := s.batch.Next(s.data)
		if !ok {
			return nil
		}
		s.data = data
		for len(s.from) < len(data) {
			s.from = append(s.from, from)
		}
	}
}

type batchInlet struct{ r batchReader }

func (i batchInlet) await() error { return i.r.AwaitRead() }
func (batchInlet) batches() bool  { return true }

func (i batchInlet) receive(s *slab) error {
	s.data, s.from = s.data[:0], s.from[:len(s.bufs)]
	n, err := i.r.ReadBatch(s.bufs, s.sizes, s.from)
	for k := range n {
		s.data = append(s.data, s.bufs[k][:s.sizes[k]])
	}
	s.from = s.from[:n]
	return err
}

// plainInlet receives one at a time.
type plainInlet struct {
	d     datagrams
	ready readiness
}

func (i plainInlet) await() error { return i.ready.wait() }
func (plainInlet) batches() bool  { return false }

func (i plainInlet) receive(s *slab) error {
	s.data, s.from = s.data[:0], s.from[:0]
	n, from, err := i.d.ReadFromUDPAddrPort(s.bufs[0])
	if err == nil {
		s.data, s.from = append(s.data, s.bufs[0][:n]), append(s.from, from)
	}
	return err
}

type connInlet struct{ c net.Conn }

func (connInlet) await() error  { return nil }
func (connInlet) batches() bool { return false }

func (i connInlet) receive(s *slab) error {
	s.data, s.from = s.data[:0], s.from[:0]
	n, err := i.c.Read(s.bufs[0])
	if err == nil {
		s.data, s.from = append(s.data, s.bufs[0][:n]), append(s.from, netip.AddrPort{})
	}
	return err
}

// corked is what a socket of the network behind the Server may be: what is written between Cork and
// Uncork leaves together.
type corked interface {
	Cork()
	Uncork()
}

// together has what f writes to x leave together, where x can do that.
func together(x any, f func()) {
	if c, ok := x.(corked); ok {
		c.Cork()
		defer c.Uncork()
	}
	f()
}
