package transport

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
)

// endpoint stands for a peer, not for an address. WireGuard keeps the same endpoint as long as the
// peer exists, and Send decides which path a packet takes (disco specification, section 5.1).
type endpoint struct {
	key   key.NodePublic
	route atomic.Pointer[route] // published by the loop, never nil

	// awake is set while the loop knows of traffic to the peer and keeps its path. A send that finds
	// it false wakes the loop. Each send sets sent and the loop clears it, so the loop learns of
	// activity although sends read no clock.
	awake atomic.Bool
	sent  atomic.Bool

	crossing crossing
}

// route says where packets for a peer go. It is immutable.
type route struct {
	direct netip.AddrPort // invalid: none
	relay  bool           // packets go through region too, or only
	region int            // home region of the peer; 0 if unknown
}

func newEndpoint(k key.NodePublic) *endpoint {
	e := &endpoint{key: k}
	e.route.Store(&route{relay: true})
	return e
}

// DstToString returns the peer's key in hex, as ParseEndpoint reads it.
func (e *endpoint) DstToString() string { return hex.EncodeToString(e.key[:]) }

// DstToBytes returns what WireGuard binds cookies to: the same bytes for all paths of the peer.
func (e *endpoint) DstToBytes() []byte { return e.key[:] }

// DstIP returns what WireGuard limits handshakes by: an address made from the peer's key.
func (e *endpoint) DstIP() netip.Addr {
	var a [16]byte
	a[0] = 0xfd // unique local, so that no real address collides
	copy(a[1:], e.key[:])
	return netip.AddrFrom16(a)
}

// ClearSrc implements conn.Endpoint. It does nothing because no source address is kept.
func (e *endpoint) ClearSrc() {}

// SrcIP implements conn.Endpoint.
func (e *endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// SrcToString implements conn.Endpoint.
func (e *endpoint) SrcToString() string { return "" }

// address is an endpoint that is an address: of a sender that no peer is known for, or of a peer
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

// addressCacheMax is how many senders a receiver remembers. When there are more, it forgets all.
const addressCacheMax = 1024

// addressCache saves an allocation for each datagram. It belongs to one receiver.
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
