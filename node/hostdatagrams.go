package node

import (
	"net"
	"net/netip"
	"sync"
)

// hostSockets are the UDP sockets of one association on the host's network. Each is bound to the
// local address from which the host reaches its first destination. Only hosts to which the
// association has sent something may answer (address-dependent filtering, RFC 4787, section 5).
// They may do so from any port, as TFTP servers do.
type hostSockets struct {
	mu     sync.Mutex
	socks  map[socketKind]*net.UDPConn
	sentTo map[netip.Addr]uint64 // hosts that may answer; the value is what sent was at the last datagram to the host
	sent   uint64                // number of datagrams so far
	closed bool
}

// socketKind is a class of destinations that share one socket.
type socketKind struct {
	ipv4, loopback bool
	zone           string // of a link-local address
}

// maxSentTo bounds the hosts that may answer. A further one takes the place of the host that was
// sent something the longest time ago.
const maxSentTo = 256

func kindOf(a netip.Addr) socketKind { return socketKind{a.Is4(), a.IsLoopback(), a.Zone()} }

// open returns the socket for a destination, and lets the host answer. A new socket is passed to
// serve first.
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
			h.socks, h.sentTo = make(map[socketKind]*net.UDPConn), make(map[netip.Addr]uint64)
		}
		h.socks[kind] = sock
		serve(sock)
	}
	h.noteSent(to.Addr().WithZone(""))
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

// noteSent lets the host at an address answer.
func (h *hostSockets) noteSent(to netip.Addr) {
	h.sent++
	if _, known := h.sentTo[to]; !known && len(h.sentTo) == maxSentTo {
		oldest, at := netip.Addr{}, h.sent
		for a, n := range h.sentTo {
			if n < at {
				oldest, at = a, n
			}
		}
		delete(h.sentTo, oldest)
	}
	h.sentTo[to] = h.sent
}

// expects reports whether a host may send something to the association.
func (h *hostSockets) expects(from netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.sentTo[from.Unmap().WithZone("")]
	return ok
}

// drop closes a socket that cannot send any more, for example because the host has moved to another
// network.
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
