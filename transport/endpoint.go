package transport

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/key"
)

// endpoint stands for a peer, not for an address: WireGuard holds one and the same for as long as
// the peer exists, and which way a packet goes is decided when it is sent (disco specification,
// section 5.1).
type endpoint struct {
	key   key.NodePublic
	route atomic.Pointer[route] // published by the loop, never nil

	// awake tells that the loop knows of traffic to the peer and keeps its path; the send that finds
	// it false wakes the loop. sent is set by each send and cleared by the loop, which so learns of
	// activity without a clock on the way.
	awake atomic.Bool
	sent  atomic.Bool

	handshakes handshakes
}

// route is where packets for a peer go. It is immutable.
type route struct {
	direct netip.AddrPort // invalid: none
	relay  bool           // also, or only, through region
	region int            // home region of the peer; 0 if unknown
}

func newEndpoint(k key.NodePublic) *endpoint {
	e := &endpoint{key: k}
	e.route.Store(&route{relay: true})
	return e
}

// DstToString is the peer's key in hex, which ParseEndpoint understands.
func (e *endpoint) DstToString() string { return hex.EncodeToString(e.key[:]) }

// DstToBytes is what WireGuard's cookies are bound to: the same for all paths of the peer.
func (e *endpoint) DstToBytes() []byte { return e.key[:] }

// DstIP is what WireGuard limits handshakes by: an address of the peer's own, made from its key.
func (e *endpoint) DstIP() netip.Addr {
	var a [16]byte
	a[0] = 0xfd // unique local, so that no real address collides
	copy(a[1:], e.key[:])
	return netip.AddrFrom16(a)
}

// ClearSrc implements conn.Endpoint; there is no source to forget.
func (e *endpoint) ClearSrc() {}

// SrcIP implements conn.Endpoint.
func (e *endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// SrcToString implements conn.Endpoint.
func (e *endpoint) SrcToString() string { return "" }

// address is an endpoint that is an address: a sender that is not attributed to a peer, or a peer
// that speaks plain WireGuard and roams by itself.
type address struct{ netip.AddrPort }

// DstToString implements conn.Endpoint.
func (a *address) DstToString() string { return a.AddrPort.String() }

// DstToBytes implements conn.Endpoint.
func (a *address) DstToBytes() []byte {
	b, _ := a.AddrPort.MarshalBinary() // does not fail
	return b
}

// DstIP implements conn.Endpoint.
func (a *address) DstIP() netip.Addr { return a.Addr() }

// ClearSrc implements conn.Endpoint.
func (a *address) ClearSrc() {}

// SrcIP implements conn.Endpoint.
func (a *address) SrcIP() netip.Addr { return netip.Addr{} }

// SrcToString implements conn.Endpoint.
func (a *address) SrcToString() string { return "" }

// ParseEndpoint reads a peer's key in hex, or an IP address and port for a peer that speaks plain
// WireGuard.
func (c *Conn) ParseEndpoint(s string) (conn.Endpoint, error) {
	if len(s) == hex.EncodedLen(key.Size) {
		k, err := hex.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("parsing endpoint %q: %w", s, err)
		}
		if e := c.endpointOf(key.NodePublic(k)); e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("parsing endpoint %q: no such peer", s)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("parsing endpoint %q: %w", s, err)
	}
	return &address{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
}

var (
	_ conn.Endpoint = (*endpoint)(nil)
	_ conn.Endpoint = (*address)(nil)
)

// addressCacheMax senders are remembered by one receiver. When there are more, all are forgotten.
const addressCacheMax = 1024

// addressCache spares an allocation for each datagram. Its owner is one receiver.
type addressCache struct {
	last *address
	all  map[netip.AddrPort]*address
}

func (c *addressCache) get(ap netip.AddrPort) *address {
	if c.last != nil && c.last.AddrPort == ap {
		return c.last
	}
	a := c.all[ap]
	if a == nil {
		if c.all == nil || len(c.all) >= addressCacheMax {
			c.all = make(map[netip.AddrPort]*address)
		}
		a = &address{ap}
		c.all[ap] = a
	}
	c.last = a
	return a
}
