package sys

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
)

// UDPConn is a UDP socket, such as *net.UDPConn.
type UDPConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// UDPSocket sends and receives the datagrams of a UDPConn in batches. On Linux one system call
// moves many datagrams, and the kernel joins those of one sender (UDP_GRO) or to one receiver
// (UDP_SEGMENT). In portable builds, and for conns that are not *net.UDPConn, a call moves one.
// The conn still belongs to the caller, who closes it. One goroutine may receive with a Batch; any
// number may send.
type UDPSocket struct {
	c  UDPConn
	os *osSocket // nil: one datagram a call
}

// NewUDPSocket returns a UDPSocket for c.
func NewUDPSocket(c UDPConn) (*UDPSocket, error) {
	s := &UDPSocket{c: c}
	if uc, ok := c.(*net.UDPConn); ok {
		var err error
		if s.os, err = newOSSocket(uc); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Batches reports whether a Receive can bring more than one datagram.
func (s *UDPSocket) Batches() bool { return s.os != nil }

// SetBuffers asks the kernel for socket buffers of that many bytes in each direction. Without
// CAP_NET_ADMIN its limits apply: net.core.rmem_max and wmem_max, 208 KiB by default on Linux.
func (s *UDPSocket) SetBuffers(bytes int) {
	if s.os != nil {
		s.os.setBuffers(bytes)
	} else if c, ok := s.c.(*net.UDPConn); ok {
		c.SetReadBuffer(bytes)
		c.SetWriteBuffer(bytes)
	}
}

// Receive blocks until at least one datagram has arrived or c fails. It overwrites what b held.
func (s *UDPSocket) Receive(b *Batch) error {
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

// Sent counts what the kernel has accepted.
type Sent struct{ Datagrams, Bytes int }

func countOf(datagrams [][]byte) Sent {
	s := Sent{Datagrams: len(datagrams)}
	for _, d := range datagrams {
		s.Bytes += len(d)
	}
	return s
}

func (s Sent) plus(o Sent) Sent { return Sent{s.Datagrams + o.Datagrams, s.Bytes + o.Bytes} }

// Send sends datagrams to one address in order. An invalid address means the one that the socket is
// connected to. Datagrams that the kernel has no room for or that a firewall refuses are dropped
// and not counted in sent. An error means that nothing more can be sent there now.
func (s *UDPSocket) Send(datagrams [][]byte, to netip.AddrPort) (sent Sent, err error) {
	if s.os != nil {
		return s.os.send(datagrams, to)
	}
	for _, d := range datagrams {
		err := s.sendOne(d, to)
		if errors.Is(err, syscall.ECONNREFUSED) { // an ICMP answer to an earlier datagram; this one has not been sent
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

func (s *UDPSocket) sendOne(b []byte, to netip.AddrPort) (err error) {
	if to.IsValid() {
		_, err = s.c.WriteToUDPAddrPort(b, to)
	} else {
		_, err = s.c.(io.Writer).Write(b)
	}
	return err
}

// slotSize is the size of the largest datagram and the most that UDP_GRO joins.
const slotSize = 64 << 10

// Batch holds what one Receive has brought. Its slots have 64 KiB each; the kernel backs only those
// pages that were ever filled.
type Batch struct {
	osBatch
	block  []byte // all slots
	got    []got  // what each slot holds
	filled int    // slots that hold something
	next   int    // the first slot that Next has not returned
}

// got describes a slot: one datagram, or several that the kernel joined.
type got struct {
	size    int
	segment int // length of each of them except the last; 0: there is one
	from    netip.AddrPort
}

// NewBatch returns a Batch for at most that many datagrams, or rows of joined datagrams, a Receive.
func NewBatch(slots int) *Batch {
	b := &Batch{block: make([]byte, slots*slotSize), got: make([]got, slots)}
	b.osBatch.init(b)
	return b
}

// Slot returns the memory of slot i. The caller may use it for anything between two Receives.
func (b *Batch) Slot(i int) []byte { return b.block[i*slotSize : (i+1)*slotSize : (i+1)*slotSize] }

// Next appends the next datagrams to row: one, or those that the kernel joined. It reports false
// when all have been returned. The caller may change them until the next Receive.
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

// wsaEMSGSIZE is EMSGSIZE of Windows. Package syscall has an invented number for it.
const wsaEMSGSIZE = syscall.Errno(10040)

// isDrop reports whether a send error means that only this datagram is lost: no room in the queue,
// too long for the path, or refused by a firewall (EPERM).
func isDrop(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EPERM) ||
		runtime.GOOS == "windows" && errors.Is(err, wsaEMSGSIZE)
}
