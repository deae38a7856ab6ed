package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"ginnel/userstack"
)

// unreachableError says to a user why an address of the mesh could not be reached.
type unreachableError struct {
	who   string
	why   string
	errno error
}

func (e *unreachableError) Error() string { return e.who + ": " + e.why }
func (e *unreachableError) Unwrap() error { return e.errno }

// noPeerError is the error for an address of the mesh that no peer has.
func noPeerError(a netip.Addr) error {
	return &unreachableError{who: a.String(), why: "no peer has this address", errno: syscall.EHOSTUNREACH}
}

// explain turns an error of the stack into one that names the peer, nil for this node, and the
// likely reason.
func (d *dialer) explain(err error, ap netip.AddrPort, peer *Peer) error {
	e := &unreachableError{who: "this node", why: "nothing listens there", errno: err}
	if peer == nil {
		return e
	}
	e.who = "peer " + peer.display()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.why = fmt.Sprintf("connection refused: nothing listens on port %d there", ap.Port())
	case isRejected(err):
		e.why = fmt.Sprintf("refused: the network's policy does not let this node reach port %d there", ap.Port())
	case errors.Is(err, syscall.ECONNRESET):
		e.why = "connection reset while connecting"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		e.why = d.noRoute(ap.Addr())
	case errors.Is(err, userstack.ErrFull):
		e.who, e.why = "this node", userstack.ErrFull.Error()+": close other connections, or raise --memory"
	case errors.Is(err, syscall.ETIMEDOUT):
		e.why = d.silence(peer)
	case errors.Is(err, context.DeadlineExceeded):
		e.why = "the tunnel of this node is not up yet"
	case errors.Is(err, context.Canceled):
		e.why = "canceled by the client"
	default:
		e.why = err.Error()
	}
	return e
}

// noRoute says why the stack has no route to an address, or a peer has none.
func (d *dialer) noRoute(a netip.Addr) string {
	for _, own := range d.plane.stack.Addrs() {
		if own.Is4() == a.Is4() {
			return "the peer reports that the host cannot be reached"
		}
	}
	if a.Is4() {
		return "this node has no IPv4 address in the mesh"
	}
	return "this node has no IPv6 address in the mesh"
}

// silence says what is known of a peer that does not answer.
func (d *dialer) silence(p *Peer) string {
	s, ok := d.plane.peers.session(p.Key)
	lookup := d.endpoints.lookupError(p)
	switch {
	case !ok:
		return "the peer is not in the network any more"
	case p.isOffline():
		return p.offlineText()
	case !s.handshake.IsZero() && d.plane.netmap.Load().Mesh:
		return fmt.Sprintf("no answer, though the last WireGuard handshake was %v ago: "+
			"the network's policy, or a firewall there, may drop the packets", time.Since(s.handshake).Round(time.Second))
	case !s.handshake.IsZero():
		return fmt.Sprintf("no answer, though the last WireGuard handshake was %v ago: a firewall there may drop the packets",
			time.Since(s.handshake).Round(time.Second))
	case p.Plain && !s.endpoint.IsValid() && lookup != nil:
		return fmt.Sprintf("the peer has not been heard from, and its endpoint cannot be looked up: %v", lookup)
	case p.Plain && !s.endpoint.IsValid():
		return "the peer has not been heard from and no endpoint is known for it"
	case p.Plain:
		return fmt.Sprintf("the peer does not answer at %s: no WireGuard handshake yet; "+
			"check its address, its key and that UDP gets there", s.endpoint)
	}
	return "the peer does not answer: no WireGuard handshake yet"
}
