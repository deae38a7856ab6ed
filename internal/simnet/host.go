package simnet

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

// The dynamic ports (RFC 6335, section 6), from which ListenUDP takes one for port 0.
const (
	firstPort = 49152
	lastPort  = 65535
)

// Host is a machine with addresses and UDP sockets. Net.NewHost makes one.
type Host struct {
	net *Net
	id  int

	// Guarded by net.mu.
	segment  *segment
	addrs    []netip.Addr
	link     Link                // of addresses that are not in links
	links    map[netip.Addr]Link // set by SetLink for single addresses
	conns    map[uint16]*Conn
	nextPort uint16
}

// NewHost attaches a host to the inside of behind, or to the internet if behind is nil. The host
// sends from its first address of the destination's family. NewHost panics if an address is in use.
func (n *Net) NewHost(behind *NAT, addrs ...netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts++
	h := &Host{net: n, id: n.hosts, links: make(map[netip.Addr]Link), conns: make(map[uint16]*Conn), nextPort: firstPort}
	h.attachLocked(behind, addrs)
	return h
}

// Move attaches the host to another network, with other addresses or none. Its sockets stay open
// and its link stays the same. Datagrams on their way to a former address are lost.
func (h *Host) Move(behind *NAT, addrs ...netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, addr := range h.addrs {
		h.segment.detachLocked(addr)
	}
	clear(h.links)
	h.attachLocked(behind, addrs)
}

func (h *Host) attachLocked(behind *NAT, addrs []netip.Addr) {
	h.segment = h.net.insideLocked(behind)
	h.addrs = slices.Clone(addrs)
	for _, addr := range addrs {
		h.segment.attachLocked(addr, h)
	}
}

// Addrs returns the addresses of the host's interfaces.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return slices.Clone(h.addrs)
}

// SetLink sets the link of these addresses, as if each belonged to an interface of its own. Without
// addresses it sets the link of the whole host.
func (h *Host) SetLink(l Link, addrs ...netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if len(addrs) == 0 {
		h.link = l
		clear(h.links)
	}
	for _, addr := range addrs {
		h.links[addr] = l
	}
}

// ListenUDP opens a socket on a port of all present and future addresses. Port 0 means a free port.
func (h *Host) ListenUDP(port uint16) (*Conn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.closed {
		return nil, opError("listen", net.ErrClosed)
	}
	if port == 0 {
		port = h.freePortLocked()
	}
	if _, taken := h.conns[port]; taken || port == 0 {
		return nil, opError("listen", os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	c := newConn(h, port)
	h.conns[port] = c
	h.net.conns[c] = struct{}{}
	return c, nil
}

// freePortLocked returns 0 if no port is free.
func (h *Host) freePortLocked() uint16 {
	for range lastPort - firstPort + 1 {
		port := h.nextPort
		if h.nextPort++; h.nextPort == 0 {
			h.nextPort = firstPort
		}
		if _, taken := h.conns[port]; !taken {
			return port
		}
	}
	return 0
}

// sendLocked sends a datagram. Without an address of the destination's family it returns
// ENETUNREACH.
func (h *Host) sendLocked(now time.Time, port uint16, dst netip.AddrPort, b []byte) error {
	if dst.Addr().IsLoopback() || slices.Contains(h.addrs, dst.Addr()) {
		p := h.net.packetLocked(h, netip.AddrPortFrom(dst.Addr(), port), dst, b)
		h.net.afterLocked(now, 0, func(now time.Time) { h.receiveLocked(now, p) })
		return nil
	}
	i := slices.IndexFunc(h.addrs, func(a netip.Addr) bool { return a.Is4() == dst.Addr().Is4() })
	if i < 0 {
		return os.NewSyscallError("sendto", syscall.ENETUNREACH)
	}
	p := h.net.packetLocked(h, netip.AddrPortFrom(h.addrs[i], port), dst, b)
	segment := h.segment
	h.net.crossLocked(now, h.linkLocked(h.addrs[i]), p, func(now time.Time) { h.net.forwardLocked(now, segment, p) })
	return nil
}

func (h *Host) linkLocked(addr netip.Addr) Link {
	if l, ok := h.links[addr]; ok {
		return l
	}
	return h.link
}

// receiveLocked delivers a packet to its socket.
func (h *Host) receiveLocked(_ time.Time, p *packet) {
	c, open := h.conns[p.dst.Port()]
	_, cut := h.net.cuts[pair{p.from, h}]
	switch {
	case cut:
		h.net.stats.Down++
	case !p.dst.Addr().IsLoopback() && !slices.Contains(h.addrs, p.dst.Addr()):
		h.net.stats.NoRoute++ // the host moved away while the packet was on its link
	case !open:
		h.net.stats.NoSocket++
	default:
		c.enqueueLocked(p)
	}
}
