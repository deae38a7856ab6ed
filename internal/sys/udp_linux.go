//go:build linux && !ginnel_stdnet

package sys

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is how many datagrams a message with UDP_SEGMENT may carry. Older kernels refuse
	// more, and a receiver on the same host gets the message as it was sent (disco specification,
	// section 6.2).
	maxSegments   = 64
	maxUDPPayload = 65507 // of a message over IPv4; IPv6 would allow 20 more
)

// osSocket moves batches with recvmmsg and sendmmsg.
//
// The calls are raw because they never block. The goroutine waits in the runtime's poller.
type osSocket struct {
	c   *net.UDPConn
	raw syscall.RawConn
	v6  bool

	gro  bool
	gso  gsoLimits
	tx   sync.Pool // of *transmitter
	zone atomic.Pointer[zone]
}

// newOSSocket returns nil if a seccomp filter forbids the calls that move batches.
func newOSSocket(c *net.UDPConn) (*osSocket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &osSocket{c: c, raw: raw}
	s.v6 = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6()
	allowed := false
	if err := raw.Control(func(fd uintptr) { allowed = batchesAllowed(fd) }); err != nil || !allowed {
		return nil, err
	}
	if err := raw.Control(s.setOptions); err != nil {
		return nil, err
	}
	s.tx.New = func() any { return newTransmitter(s) }
	return s, nil
}

// batchesAllowed tries both calls with no messages, which has no effect.
func batchesAllowed(fd uintptr) bool {
	for _, call := range []uintptr{unix.SYS_RECVMMSG, unix.SYS_SENDMMSG} {
		if _, _, errno := syscall.RawSyscall6(call, fd, 0, 0, unix.MSG_DONTWAIT, 0, 0); errno == syscall.EPERM ||
			errno == syscall.ENOSYS {
			return false
		}
	}
	return true
}

func (s *osSocket) setOptions(fd uintptr) {
	s.gro = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	_, err := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT)
	s.gso.supported = err == nil
}

func (s *osSocket) setBuffers(bytes int) {
	s.raw.Control(func(ufd uintptr) {
		fd := int(ufd)
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
		}
	})
}

// message is struct mmsghdr: a message and the bytes it carried.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// control is a control message with one integer, large enough for UDP_SEGMENT and UDP_GRO.
type control struct {
	hdr   unix.Cmsghdr
	value [8]byte
}

// osBatch is the part of a Batch that recvmmsg needs.
type osBatch struct {
	tryf func(fd uintptr) bool // try, made once

	msgs  []message
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6
	ctrls []control

	n     int // messages of the last call
	errno syscall.Errno
}

func (o *osBatch) init(b *Batch) {
	n := len(b.got)
	o.msgs, o.iovs, o.names, o.ctrls = make([]message, n), make([]unix.Iovec, n), make([]unix.RawSockaddrInet6, n),
		make([]control, n)
	o.tryf = o.try
	for i := range o.msgs {
		o.iovs[i].Base = &b.Slot(i)[0]
		o.iovs[i].SetLen(slotSize)
		h := &o.msgs[i].hdr
		h.Iov = &o.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&o.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&o.ctrls[i]))
	}
}

// try calls recvmmsg. It returns false to be called again when the socket is readable.
func (o *osBatch) try(fd uintptr) bool {
	for i := range o.msgs {
		h := &o.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(int(unsafe.Sizeof(o.ctrls[i])))
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&o.msgs[0])), uintptr(len(o.msgs)),
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		o.n, o.errno = int(n), errno
		return true
	}
}

func (s *osSocket) receive(b *Batch) error {
	if err := s.raw.Read(b.tryf); err != nil {
		return err
	}
	if b.errno != 0 {
		return &net.OpError{Op: "read", Net: "udp", Source: s.c.LocalAddr(), Err: b.errno}
	}
	b.filled = b.n
	for i := range b.n {
		b.got[i] = got{size: int(b.msgs[i].n), segment: s.segmentSize(&b.osBatch, i), from: s.addrPortOf(&b.names[i])}
	}
	return nil
}

// segmentSize returns the length of the datagrams that the kernel joined into message i, 0 if it is
// one datagram. The last may be shorter.
func (s *osSocket) segmentSize(o *osBatch, i int) int {
	c := &o.ctrls[i]
	if s.gro && o.msgs[i].hdr.Controllen >= unix.SizeofCmsghdr+4 && c.hdr.Level == unix.SOL_UDP &&
		c.hdr.Type == unix.UDP_GRO {
		return max(int(*(*int32)(unsafe.Pointer(&c.value))), 0)
	}
	return 0
}

// addrPortOf reads an address that the kernel wrote. The port is big endian in both families.
func (s *osSocket) addrPortOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	p := (*[2]byte)(unsafe.Pointer(&sa.Port))
	port := uint16(p[0])<<8 | uint16(p[1])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	addr := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 {
		addr = addr.WithZone(s.zoneName(sa.Scope_id))
	}
	return netip.AddrPortFrom(addr, port)
}

// transmitter sends one batch. It is reused, so that a batch costs no allocation.
type transmitter struct {
	s     *osSocket
	ready func(fd uintptr) bool // transmit, made once

	to      netip.Addr
	bufs    [][]byte // the batch; bufs[sent:] is still to be sent
	sent    int
	lost    Sent                  // datagrams of bufs[:sent] that the kernel dropped
	refused int                   // ECONNREFUSED answers to earlier datagrams
	name    unix.RawSockaddrInet6 // the destination, unless the socket is connected
	nameLen uint32
	plain   bool // do not join datagrams of this batch

	msgs  []message
	iovs  []unix.Iovec
	ctrls []control
	count []int // datagrams in each message
	errno syscall.Errno
}

func newTransmitter(s *osSocket) *transmitter {
	t := &transmitter{s: s}
	t.ready = t.transmit
	return t
}

func (s *osSocket) send(bufs [][]byte, to netip.AddrPort) (sent Sent, err error) {
	if to.IsValid() && to.Addr().Is6() != s.v6 {
		return Sent{}, &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: syscall.EAFNOSUPPORT}
	}
	t := s.tx.Get().(*transmitter)
	defer s.tx.Put(t)
	t.load(bufs, to)
	err = s.raw.Write(t.ready)
	sent = t.unload()
	switch {
	case err != nil:
		return sent, err
	case t.errno != 0:
		op := &net.OpError{Op: "write", Net: "udp", Source: s.c.LocalAddr(), Err: t.errno}
		if to.IsValid() {
			op.Addr = net.UDPAddrFromAddrPort(to)
		}
		return sent, op
	}
	return sent, nil
}

func (t *transmitter) load(bufs [][]byte, to netip.AddrPort) {
	t.to, t.bufs, t.sent, t.lost, t.refused, t.plain, t.errno = to.Addr(), bufs, 0, Sent{}, 0, false, 0
	t.setName(to)
	if n := len(bufs); cap(t.iovs) < n {
		t.iovs = make([]unix.Iovec, n)
		t.msgs = make([]message, n)
		t.ctrls = make([]control, n)
		t.count = make([]int, n)
	}
}

func (t *transmitter) setName(to netip.AddrPort) {
	if !to.IsValid() {
		t.nameLen = 0
		return
	}
	p := (*[2]byte)(unsafe.Pointer(&t.name.Port))
	p[0], p[1] = byte(to.Port()>>8), byte(to.Port())
	if to.Addr().Is4() {
		t.name.Family, t.nameLen = unix.AF_INET, unix.SizeofSockaddrInet4
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&t.name)).Addr = to.Addr().As4()
	} else {
		t.name.Family, t.nameLen = unix.AF_INET6, unix.SizeofSockaddrInet6
		t.name.Flowinfo, t.name.Scope_id = 0, t.s.zoneID(to.Addr().Zone())
		t.name.Addr = to.Addr().As16()
	}
}

// unload returns what was sent and drops all references to the batch, which belongs to the caller
// again. All of iovs is cleared, because a batch that was sent in parts leaves old pointers behind
// the end of the last part.
func (t *transmitter) unload() Sent {
	sent := countOf(t.bufs[:t.sent]).less(t.lost)
	t.bufs = nil
	clear(t.iovs[:cap(t.iovs)])
	return sent
}

// transmit sends the rest of the batch. It returns false to be called again when the socket is
// writable.
func (t *transmitter) transmit(fd uintptr) bool {
	for t.sent < len(t.bufs) {
		n := t.build()
		sent, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&t.msgs[0])), uintptr(n),
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			for i := range int(sent) {
				t.sent += t.count[i]
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		case syscall.ECONNREFUSED: // an ICMP answer to an earlier datagram; none of these has been sent
			if t.refused++; t.refused > len(t.bufs) {
				t.errno = errno
				return true
			}
		default:
			if !t.recover(errno) {
				t.errno = errno
				return true
			}
		}
	}
	return true
}

// recover handles the refusal of the first message that build made. It returns false to give up.
func (t *transmitter) recover(errno syscall.Errno) bool {
	first := len(t.bufs[t.sent])
	switch {
	case t.count[0] > 1 && errno == syscall.EIO:
		t.s.gso.lower(t.to, 0, time.Now()) // the device computes no checksums
		return true
	case t.count[0] > 1 && (errno == syscall.EINVAL || errno == syscall.EMSGSIZE):
		t.s.gso.lower(t.to, first-1, time.Now())
		t.plain = true
		return true
	case isDrop(errno):
		t.lost = t.lost.plus(countOf(t.bufs[t.sent:][:t.count[0]]))
		t.sent += t.count[0]
		return true
	}
	return false
}

// build describes bufs[sent:] as messages and returns their number. Consecutive datagrams share a
// message if all except the last have the same size and the last is not longer.
func (t *transmitter) build() (n int) {
	limit := 0
	if !t.plain {
		limit = t.s.gso.of(t.to)
	}
	iovs := t.iovs[:0]
	for rest := t.bufs[t.sent:]; len(rest) > 0; n++ {
		run := runLength(rest, limit)
		from := len(iovs)
		for _, b := range rest[:run] {
			v := unix.Iovec{}
			if len(b) > 0 {
				v.Base = &b[0]
				v.SetLen(len(b))
			}
			iovs = append(iovs, v)
		}
		t.count[n] = run
		m := &t.msgs[n]
		*m = message{}
		if t.nameLen > 0 {
			m.hdr.Name, m.hdr.Namelen = (*byte)(unsafe.Pointer(&t.name)), t.nameLen
		}
		m.hdr.Iov = &iovs[from]
		m.hdr.SetIovlen(run)
		if run > 1 {
			c := &t.ctrls[n]
			c.hdr.Level, c.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			c.hdr.SetLen(unix.CmsgLen(2))
			*(*uint16)(unsafe.Pointer(&c.value)) = uint16(len(rest[0]))
			m.hdr.Control = (*byte)(unsafe.Pointer(c))
			m.hdr.SetControllen(unix.CmsgSpace(2))
		}
		rest = rest[run:]
	}
	t.iovs = iovs
	return n
}

// runLength returns how many datagrams from the start of bufs fit into one message.
func runLength(bufs [][]byte, limit int) int {
	size := len(bufs[0])
	if size == 0 || size > limit {
		return 1
	}
	total := size
	for i, b := range bufs[1:] {
		n := i + 1
		if n == maxSegments || len(b) > size || len(b) == 0 || total+len(b) > maxUDPPayload {
			return n
		}
		total += len(b)
		if len(b) < size {
			return n + 1
		}
	}
	return len(bufs)
}

func (s Sent) less(o Sent) Sent { return Sent{s.Datagrams - o.Datagrams, s.Bytes - o.Bytes} }
