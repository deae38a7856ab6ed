package node

import (
	"net"
	"net/netip"
	"sync"
)

// hostSockets are the UDP sockets on the host's network of one association. Each is bound as
// narrowly as the destinations allow that it serves: to a loopback address, or to the address from
// which the host reaches the first of them. Only hosts that the association has sent something to
// may answer (address-dependent filtering, RFC 4787, section 5), from any port of theirs, as TFTP
// servers do.
type hostSockets struct {
	mu     sync.Mutex
	socks  map[socketKind]*net.UDPConn
	spoken map[netip.Addr]uint64 // hosts that may answer, with the number of the last datagram to them
	sent   uint64                // datagrams
	closed bool
}

// socketKind is what the destinations of one socket have in common.
type socketKind struct {
	ipv4, loopback bool
	zone           string // of a link-local address
}

// maxSpoken is how many hosts may answer at a time. The one that was sent something the longest
// time ago gives way.
const maxSpoken = 256

func kindOf(a netip.Addr) socketKind { return socketKind{a.Is4(), a.IsLoopback(), a.Zone()} }

// open returns the socket for a destination, and notes that the host may answer. A new socket is
// handed to serve first.
func (h *hostSockets) open(to netip.AddrPort, serve func(*net.UDPConn)) (*net.UDPConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, net.ErrClosed
	}
	kind := kindOf(to.Addr())
	sock := h.socks[kind]
	if sock == nil {
		var err error
		if sock, err = listenTowards(to); err != nil {
			return nil, err
		}
		if h.socks == nil {
			h.socks, h.spoken = make(map[socketKind]*net.UDPConn), make(map[netip.Addr]uint64)
		}
		h.socks[kind] = sock
		serve(sock)
	}
	h.speak(to.Addr().WithZone(""))
	return sock, nil
}

// listenTowards opens a socket on the address from which the host would send to a destination.
func listenTowards(to netip.AddrPort) (*net.UDPConn, error) {
	probe, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // sends nothing
	if err != nil {
		return nil, err
	}
	local := *probe.LocalAddr().(*net.UDPAddr)
	probe.Close()
	local.Port = 0
	return net.ListenUDP("udp", &local)
}

func (h *hostSockets) speak(to netip.Addr) {
	h.sent++
	if _, known := h.spoken[to]; !known && len(h.spoken) == maxSpoken {
		oldest, at := netip.Addr{}, h.sent
		for a, n := range h.spoken {
			if n < at {
				oldest, at = a, n
			}
		}
		delete(h.spoken, oldest)
	}
	h.spoken[to] = h.sent
}

// expects reports whether a host may send something to the association.
func (h *hostSockets) expects(from netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.spoken[from.Unmap().WithZone("")]
	return ok
}

// drop forgets a socket that sends no more, as when the host has moved to another network.
func (h *hostSockets) drop(sock *net.UDPConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for kind, s := range h.socks {
		if s == sock {
			delete(h.socks, kind)
			s.Close()
		}
	}
}

func (h *hostSockets) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, s := range h.socks {
		s.Close()
	}
}
