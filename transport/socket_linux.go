package transport

import (
	"errors"
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
	socketBuffer = 7 << 20 // bytes asked for in each direction; the system may grant less

	// readSlots datagrams, or runs of datagrams that the kernel joined, are read by one system call.
	readSlots = 4
	slotSize  = 64 << 10

	// A message with UDP_SEGMENT carries at most this many datagrams: older kernels refuse more, and a receiver on the
	// same host gets the message as it was sent (disco specification, section 6.2).
	maxSegments   = 64
	maxUDPPayload = 65507 // of a message over IPv4; IPv6 would allow 20 more
)

// batchSocket moves batches with recvmmsg and sendmmsg, joined by the kernel where it can (UDP GRO and GSO).
//
// The system calls never block, so they are made without telling Go's scheduler, which would otherwise hand the
// processor to another thread each time; the goroutine waits in the network poller instead.
type batchSocket struct {
	c     *net.UDPConn
	raw   syscall.RawConn
	v6    bool
	drops *counters

	gro bool
	rx  receiver // owned by the one reader

	// gsoLimit is the largest datagram that UDP_SEGMENT works for, 0 if it does not work. A device without checksum
	// offload and a route with a small MTU refuse what they would fragment if it came alone.
	gsoLimit atomic.Int32
	tx       sync.Pool // of *transmitter
}

// newSocket sets up a socket of the system.
func newSocket(c *net.UDPConn, drops *counters) (socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &batchSocket{c: c, raw: raw, drops: drops}
	s.v6 = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6()
	if err := raw.Control(s.setOptions); err != nil {
		return nil, err
	}
	s.rx.init(s)
	s.tx.New = func() any { return newTransmitter(s) }
	return s, nil
}

func (s *batchSocket) setOptions(ufd uintptr) {
	fd := int(ufd)
	// The forced forms need a capability; without it the system's limits apply.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	}
	// Routers may cut datagrams into fragments, as they may those of the kernel's WireGuard: what is too large for a
	// path whose routers do not say so would never arrive. Each option is refused by the sockets of the other family.
	unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	s.gro = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	if _, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err == nil {
		s.gsoLimit.Store(maxUDPPayload)
	}
}

func (s *batchSocket) interrupt()        { s.c.SetReadDeadline(past) }
func (s *batchSocket) resume()           { s.c.SetReadDeadline(time.Time{}) }
func (s *batchSocket) close() error      { return s.c.Close() }
func (s *batchSocket) localPort() uint16 { return s.c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

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

// receiver reads datagrams. What one system call brought and the caller had no room for is kept for the next call.
type receiver struct {
	s     *batchSocket
	ready func(fd uintptr) bool // s.rx.receive, made once

	msgs  [readSlots]message
	iovs  [readSlots]unix.Iovec
	names [readSlots]unix.RawSockaddrInet6
	ctrls [readSlots]control
	slots [readSlots][]byte

	filled int // messages of the last call
	next   int // the first of them not handed out yet
	off    int // bytes of it that were
	errno  syscall.Errno
}

func (r *receiver) init(s *batchSocket) {
	r.s = s
	r.ready = r.receive
	for i := range r.msgs {
		r.slots[i] = make([]byte, slotSize)
		r.iovs[i].Base = &r.slots[i][0]
		r.iovs[i].SetLen(slotSize)
		h := &r.msgs[i].hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&r.ctrls[i]))
	}
}

// receive makes the system call; it reports false to be called again once the socket is readable.
func (r *receiver) receive(fd uintptr) bool {
	for i := range r.msgs {
		h := &r.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(int(unsafe.Sizeof(r.ctrls[i])))
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs)), readSlots,
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		r.errno = errno
		r.filled, r.next, r.off = 0, 0, 0
		if errno == 0 {
			r.filled = int(n)
		}
		return true
	}
}

func (s *batchSocket) readBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error) {
	r := &s.rx
	for {
		if n := r.handOut(bufs, sizes, from); n > 0 {
			return n, nil
		}
		if err := s.raw.Read(r.ready); err != nil {
			return 0, err
		}
		if r.errno != 0 {
			return 0, &net.OpError{Op: "read", Net: "udp", Source: s.c.LocalAddr(), Err: r.errno}
		}
	}
}

// handOut copies datagrams into bufs, one each, and cuts apart those that the kernel joined.
func (r *receiver) handOut(bufs [][]byte, sizes []int, from []netip.AddrPort) (n int) {
	for n < len(bufs) && r.next < r.filled {
		m := &r.msgs[r.next]
		addr := addrPortOf(&r.names[r.next])
		size := r.segmentSize(r.next)
		data := r.slots[r.next][:m.n]
		for n < len(bufs) && r.off < len(data) {
			piece := data[r.off:min(r.off+size, len(data))]
			r.off += len(piece)
			sizes[n] = copy(bufs[n], piece)
			from[n] = addr
			n++
		}
		if r.off >= len(data) {
			r.next, r.off = r.next+1, 0
		}
	}
	return n
}

// segmentSize is how long the datagrams of message i are, all but the last.
func (r *receiver) segmentSize(i int) int {
	c := &r.ctrls[i]
	if r.s.gro && r.msgs[i].hdr.Controllen >= unix.SizeofCmsghdr+4 && c.hdr.Level == unix.SOL_UDP && c.hdr.Type == unix.UDP_GRO {
		if size := int(*(*int32)(unsafe.Pointer(&c.value))); size > 0 {
			return size
		}
	}
	return slotSize
}

// addrPortOf reads an address that the kernel wrote. The port is big endian in both families.
func addrPortOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	p := (*[2]byte)(unsafe.Pointer(&sa.Port))
	port := uint16(p[0])<<8 | uint16(p[1])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port)
}

// transmitter sends one batch. It is reused, so that a batch costs no allocation.
type transmitter struct {
	s     *batchSocket
	ready func(fd uintptr) bool // transmit, made once

	bufs    [][]byte // the batch; bufs[sent:] is still to go
	sent    int
	name    unix.RawSockaddrInet6
	nameLen uint32
	plain   bool // do not join datagrams of this batch

	msgs  []message
	iovs  []unix.Iovec
	ctrls []control
	count []int // datagrams in each message
	errno syscall.Errno
}

func newTransmitter(s *batchSocket) *transmitter {
	t := &transmitter{s: s}
	t.ready = t.transmit
	return t
}

func (s *batchSocket) writeBatch(bufs [][]byte, to netip.AddrPort) error {
	if to.Addr().Is6() != s.v6 {
		return &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: syscall.EAFNOSUPPORT}
	}
	t := s.tx.Get().(*transmitter)
	defer s.tx.Put(t)
	t.load(bufs, to)
	err := s.raw.Write(t.ready)
	t.unload()
	if err != nil {
		return err
	}
	if t.errno != 0 {
		return &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: t.errno}
	}
	return nil
}

func (t *transmitter) load(bufs [][]byte, to netip.AddrPort) {
	t.bufs, t.sent, t.plain, t.errno = bufs, 0, false, 0
	p := (*[2]byte)(unsafe.Pointer(&t.name.Port))
	p[0], p[1] = byte(to.Port()>>8), byte(to.Port())
	if to.Addr().Is4() {
		t.name.Family, t.nameLen = unix.AF_INET, unix.SizeofSockaddrInet4
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&t.name)).Addr = to.Addr().As4()
	} else {
		t.name.Family, t.nameLen = unix.AF_INET6, unix.SizeofSockaddrInet6
		t.name.Flowinfo, t.name.Scope_id = 0, 0
		t.name.Addr = to.Addr().As16()
	}
	if n := len(bufs); cap(t.iovs) < n {
		t.iovs = make([]unix.Iovec, n)
		t.msgs = make([]message, n)
		t.ctrls = make([]control, n)
		t.count = make([]int, n)
	}
}

// unload forgets the batch: it belongs to the caller again. All of iovs is cleared, for after a part of the batch was
// sent it is built anew from the start and the end still points at buffers.
func (t *transmitter) unload() {
	t.bufs = nil
	clear(t.iovs[:cap(t.iovs)])
}

// transmit sends the rest of the batch; it reports false to be called again once the socket is writable.
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
		default:
			if !t.recover(errno) {
				t.errno = errno
				return true
			}
		}
	}
	return true
}

// recover decides what to do when the first message of those built was refused. It reports false to give up.
func (t *transmitter) recover(errno syscall.Errno) bool {
	first := len(t.bufs[t.sent])
	switch {
	case t.count[0] > 1 && errno == syscall.EIO:
		t.s.gsoLimit.Store(0) // the device computes no checksums
		return true
	case t.count[0] > 1 && (errno == syscall.EINVAL || errno == syscall.EMSGSIZE):
		t.s.lowerGSOLimit(first - 1)
		t.plain = true
		return true
	case isDrop(errno):
		t.s.drops.udpSendDrops.Add(uint64(t.count[0]))
		t.sent += t.count[0]
		return true
	}
	return false
}

func (s *batchSocket) lowerGSOLimit(limit int) {
	for {
		old := s.gsoLimit.Load()
		if old <= int32(limit) || s.gsoLimit.CompareAndSwap(old, int32(limit)) {
			return
		}
	}
}

// build describes bufs[sent:] as messages and returns their number. Datagrams that follow each other share a message if
// all but the last have the size of the first and the last is not longer.
func (t *transmitter) build() (n int) {
	limit := int(t.s.gsoLimit.Load())
	if t.plain {
		limit = 0
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
		m.hdr.Name = (*byte)(unsafe.Pointer(&t.name))
		m.hdr.Namelen = t.nameLen
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

// runLength is how many of bufs, from the first on, fit into one message.
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

// isDrop reports whether a send error means that just this datagram is lost: no room on the way out, or a firewall.
func isDrop(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMSGSIZE)
}

// isUnreachable reports whether a send error says that the destination cannot be reached from here now.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
