// Package udpbatch moves UDP datagrams by the batch. On Linux one system call moves many, and the
// kernel hands on those of one sender, or to one receiver, as one for as long as it can (UDP_GRO,
// UDP_SEGMENT). Elsewhere, and with sockets that are not the system's, each goes by itself.
//
// Goroutines: none.
package udpbatch

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
)

// Conn is a UDP socket; *net.UDPConn is one.
type Conn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// Socket moves the datagrams of a Conn, which remains its owner's. One goroutine may receive with a
// Batch; any number may send.
type Socket struct {
	c  Conn
	os *osSocket // nil: one at a time
}

// New returns a Socket for c. Datagrams that c reads itself meanwhile are none of the Socket's.
func New(c Conn) (*Socket, error) {
	s := &Socket{c: c}
	if uc, ok := c.(*net.UDPConn); ok {
		var err error
		if s.os, err = newOSSocket(uc); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Batches reports whether a Receive can bring more than one datagram.
func (s *Socket) Batches() bool { return s.os != nil }

// SetBuffers asks the system for that many bytes of room in each direction. Without a capability
// its limits apply, which is half of a megabyte with Linux unless somebody has raised it.
func (s *Socket) SetBuffers(bytes int) {
	if s.os != nil {
		s.os.setBuffers(bytes)
	} else if c, ok := s.c.(*net.UDPConn); ok {
		c.SetReadBuffer(bytes)
		c.SetWriteBuffer(bytes)
	}
}

// Receive blocks until there is at least one datagram, or until c has an error. What b had is gone.
func (s *Socket) Receive(b *Batch) error {
	b.filled, b.next = 0, 0
	if s.os != nil {
		return s.os.receive(b)
	}
	n, from, err := s.c.ReadFromUDPAddrPort(b.Slot(0))
	if err != nil {
		return err
	}
	b.filled = 1
	b.got[0] = got{size: n, from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
	return nil
}

// Sent is what the system has taken.
type Sent struct{ Datagrams, Bytes int }

func countOf(datagrams [][]byte) Sent {
	s := Sent{Datagrams: len(datagrams)}
	for _, d := range datagrams {
		s.Bytes += len(d)
	}
	return s
}

func (s Sent) less(o Sent) Sent { return Sent{s.Datagrams - o.Datagrams, s.Bytes - o.Bytes} }
func (s Sent) plus(o Sent) Sent { return Sent{s.Datagrams + o.Datagrams, s.Bytes + o.Bytes} }

// Send sends datagrams to one address, in order; an invalid one means where the socket is connected
// to. Those that the system has no room for, or a firewall in their way, are left out. An error
// means that nothing more can be sent there now.
func (s *Socket) Send(datagrams [][]byte, to netip.AddrPort) (sent Sent, err error) {
	if s.os != nil {
		return s.os.send(datagrams, to)
	}
	for _, d := range datagrams {
		err := s.sendOne(d, to)
		if errors.Is(err, syscall.ECONNREFUSED) { // the answer to an earlier one; this has not been sent
			err = s.sendOne(d, to)
		}
		switch {
		case err == nil:
			sent = sent.plus(Sent{1, len(d)})
		case !isDrop(err):
			return sent, err
		}
	}
	return sent, nil
}

func (s *Socket) sendOne(b []byte, to netip.AddrPort) (err error) {
	if to.IsValid() {
		_, err = s.c.WriteToUDPAddrPort(b, to)
	} else {
		_, err = s.c.(io.Writer).Write(b)
	}
	return err
}

// slotSize holds the largest datagram, and the most that the kernel joins.
const slotSize = 64 << 10

// Batch holds what one Receive has brought. Of its slots, 64 KiB each, only as much is in memory as
// was ever filled.
type Batch struct {
	osBatch
	block  []byte // all slots
	got    []got  // what is in each
	filled int    // slots that have something
	next   int    // the first whose datagrams have not been taken
}

// got is what a slot holds: one datagram, or several that the kernel joined.
type got struct {
	size    int
	segment int // length of each of them, but the last; 0: there is one
	from    netip.AddrPort
}

// NewBatch returns a Batch of that many slots, which is how many datagrams, or rows of them, one
// Receive brings at the most.
func NewBatch(slots int) *Batch {
	b := &Batch{block: make([]byte, slots*slotSize), got: make([]got, slots)}
	b.osBatch.init(b)
	return b
}

// Slot returns the memory of slot i, for whatever else it may be used between two Receives.
func (b *Batch) Slot(i int) []byte { return b.block[i*slotSize : (i+1)*slotSize : (i+1)*slotSize] }

// Next appends the next datagrams to row: one, or those that the kernel joined. It reports false if
// there are none. They are the caller's to change until the next Receive.
func (b *Batch) Next(row [][]byte) (_ [][]byte, from netip.AddrPort, ok bool) {
	if b.next == b.filled {
		return row, netip.AddrPort{}, false
	}
	g, slot := &b.got[b.next], b.Slot(b.next)
	b.next++
	if g.segment == 0 {
		return append(row, slot[:g.size:g.size]), g.from, true
	}
	for start := 0; start < g.size; start += g.segment {
		end := min(start+g.segment, g.size)
		row = append(row, slot[start:end:end])
	}
	return row, g.from, true
}
