package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"ginnel/internal/neterr"
	"ginnel/key"
	"ginnel/userstack"
)

// raceDelay is the head start of one address of a name over the next (RFC 8305, section 8).
const raceDelay = 250 * time.Millisecond

// DialContext connects to addr, host:port, over "tcp" or "udp". A host in the mesh is reached
// through it and never on the host's network; everything else is dialled from the host, by the
// proxy that its environment names if there is one, unless the node was told to keep to the mesh.
//
// Errors wrap the errno that a socket of the system would give, fs.ErrPermission if policy is the
// reason, and *net.DNSError if the name is.
func (n *Node) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := n.dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", addr, neterr.Cause(addr, err))
	}
	return c, nil
}

// dial is DialContext for those who name the destination in errors themselves.
func (n *Node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if n.isClosed() {
		return nil, net.ErrClosed
	}
	if n.member != nil {
		if err := n.member.await(ctx); err != nil {
			return nil, err
		}
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("%q is not a port", portText)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return n.dialAddr(ctx, network, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	if n.leavesToProxy(network, host) {
		return n.dialHost(ctx, network, addr)
	}
	addrs, err := n.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return n.race(ctx, network, n.preferred(addrs), uint16(port))
}

// race dials the addresses of a name, each a little later than the one before or as soon as that
// has failed. The first connection wins; if there is none, the first error counts.
func (n *Node) race(ctx context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
	if len(addrs) == 1 {
		return n.dialAddr(ctx, network, netip.AddrPortFrom(addrs[0].Unmap(), port))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &contest{n: n, network: network, results: make(chan contestant, len(addrs))}
	addrs = interleave(addrs)
	var firstErr error
	running := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for running > 0 || len(addrs) > 0 {
		var startc <-chan time.Time
		if len(addrs) > 0 {
			startc = timer.C
		}
		select {
		case <-startc:
			r.start(ctx, netip.AddrPortFrom(addrs[0].Unmap(), port))
			addrs, running = addrs[1:], running+1
			timer.Reset(raceDelay)
		case res := <-r.results:
			running--
			if res.err == nil {
				cancel()
				losers := running
				if !n.spawn(func() { r.closeLosers(losers) }) {
					r.closeLosers(losers)
				}
				return res.c, nil
			}
			if firstErr == nil {
				firstErr = res.err
			}
			timer.Reset(0)
		}
	}
	return nil, firstErr
}

// contest is one such race.
type contest struct {
	n       *Node
	network string
	results chan contestant // has room for all
}

type contestant struct {
	c   net.Conn
	err error
}

func (r *contest) start(ctx context.Context, ap netip.AddrPort) {
	if !r.n.spawn(func() { r.dial(ctx, ap) }) {
		r.results <- contestant{err: net.ErrClosed}
	}
}

func (r *contest) dial(ctx context.Context, ap netip.AddrPort) {
	c, err := r.n.dialAddr(ctx, r.network, ap)
	r.results <- contestant{c, err}
}

// closeLosers takes what was still on its way when somebody had won.
func (r *contest) closeLosers(n int) {
	for range n {
		if res := <-r.results; res.c != nil {
			res.c.Close()
		}
	}
}

// interleave alternates between the families, beginning with that of the first address (RFC 8305,
// section 4).
func interleave(addrs []netip.Addr) []netip.Addr {
	var a, b []netip.Addr
	for _, addr := range addrs {
		if addr.Unmap().Is4() == addrs[0].Unmap().Is4() {
			a = append(a, addr)
		} else {
			b = append(b, addr)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for len(a) > 0 || len(b) > 0 {
		if len(a) > 0 {
			out, a = append(out, a[0]), a[1:]
		}
		if len(b) > 0 {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}

// dialAddr connects to one address, through the mesh or from the host. A zone counts on the host
// only: the mesh is one link.
func (n *Node) dialAddr(ctx context.Context, network string, hostAddr netip.AddrPort) (net.Conn, error) {
	r := n.routes.Load()
	ap := netip.AddrPortFrom(hostAddr.Addr().WithZone(""), hostAddr.Port())
	if !r.inMesh(ap.Addr()) {
		return n.dialHost(ctx, network, hostAddr.String())
	}
	peer := r.peer(ap.Addr())
	if peer == nil && !r.isOwn(ap.Addr()) {
		return nil, noPeerError(ap.Addr())
	}
	n.wakePeer(peer)
	if err := n.awaitUp(ctx); err != nil {
		return nil, n.explain(err, ap, peer)
	}
	n.raceEndpoint(peer)
	c, err := n.dialPeer(ctx, network, ap, peer)
	if err != nil {
		return nil, n.explain(err, ap, peer)
	}
	return c, nil
}

// wakePeer prepares for packets to a peer; nil is this node.
func (n *Node) wakePeer(p *Peer) {
	if p != nil && n.wg0.want(p.Key) {
		n.spawn(func() { n.urge(p.Key) })
	}
	n.raceEndpoint(p)
}

// How a first handshake that nobody has answered is helped along. The peer, or its relay, may have
// learned of us only after it was sent, and WireGuard itself tries again after five seconds. Pings
// find out when that is so: soon and often at first, since most peers learn of a new one within
// milliseconds.
const (
	firstUrge = 20 * time.Millisecond  // before the first ping, and for its answer; twice that the next time
	lastUrge  = 250 * time.Millisecond // and not more than that
	urgeTime  = 7 * time.Second        // after which WireGuard is left alone

	// blindUrge is after how long the handshake is begun anew without an answer to a ping. To begin
	// anew makes an answer that is under way worthless, so it is longer than a round trip.
	blindUrge = 700 * time.Millisecond
)

// urge helps a first handshake along, and discovery with it: of a peer that has not learned of us
// there is no answer to either.
func (n *Node) urge(k key.NodePublic) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	begun := time.Now()
	handshake := begun
	for pause := firstUrge; time.Since(begun) < urgeTime; pause = min(2*pause, lastUrge) {
		timer.Reset(pause/2 + rand.N(pause)) // not in step with a peer that does the same
		select {
		case <-timer.C:
		case <-n.closec:
			return
		}
		if !n.wg0.waits(k) {
			return
		}
		answered := n.pingWithin(pause, k)
		if !n.wg0.waits(k) {
			return
		}
		if (answered || time.Since(handshake) > blindUrge) && n.wg0.waits(k) {
			n.wg0.dev.StartHandshake(k)
			handshake = time.Now()
		}
	}
}

// pingWithin sends discovery pings and reports whether there was an answer in time.
func (n *Node) pingWithin(limit time.Duration, k key.NodePublic) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := n.conn.Ping(ctx, k)
	return err == nil
}

// unreachableError says why a mesh address could not be reached, in the words of its user.
type unreachableError struct {
	who   string
	why   string
	errno error
}

func (e *unreachableError) Error() string { return e.who + ": " + e.why }
func (e *unreachableError) Unwrap() error { return e.errno }

// noPeerError is for an address of the mesh that nobody has.
func noPeerError(a netip.Addr) error {
	return &unreachableError{who: a.String(), why: "no peer has this address", errno: syscall.EHOSTUNREACH}
}

// explain turns an error of the stack into one that names the peer and the likely reason.
func (n *Node) explain(err error, ap netip.AddrPort, peer *Peer) error {
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
		e.why = n.noRoute(ap.Addr())
	case errors.Is(err, userstack.ErrFull):
		e.who, e.why = "this node", userstack.ErrFull.Error()+": others have to end first, or --memory has to allow more"
	case errors.Is(err, syscall.ETIMEDOUT):
		e.why = n.silence(peer)
	case errors.Is(err, context.DeadlineExceeded):
		e.why = "the tunnel of this node is not up yet"
	case errors.Is(err, context.Canceled):
		e.why = "given up: the client has gone"
	default:
		e.why = err.Error()
	}
	return e
}

func (n *Node) noRoute(a netip.Addr) string {
	for _, own := range n.stack.Addrs() {
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
func (n *Node) silence(p *Peer) string {
	s, ok := n.wg0.dev.PeerState(p.Key)
	switch {
	case !ok:
		return "the peer has left"
	case p.isOffline():
		return p.offlineText()
	case !s.Handshake.IsZero() && n.netmap.Load().Mesh:
		return fmt.Sprintf("no answer, though the last WireGuard handshake was %v ago: the network's policy, or a firewall there, may drop the packets",
			time.Since(s.Handshake).Round(time.Second))
	case !s.Handshake.IsZero():
		return fmt.Sprintf("no answer, though the last WireGuard handshake was %v ago: a firewall there may drop the packets",
			time.Since(s.Handshake).Round(time.Second))
	case p.Plain && s.Endpoint == "" && n.lookupError(p) != nil:
		return fmt.Sprintf("the peer has not been heard from, and its endpoint cannot be looked up: %v", n.lookupError(p))
	case p.Plain && s.Endpoint == "":
		return "the peer has not been heard from and no endpoint is known for it"
	case p.Plain:
		return fmt.Sprintf("the peer does not answer at %s: no WireGuard handshake yet; check its address, its key and that UDP gets there", s.Endpoint)
	}
	return "the peer does not answer: no WireGuard handshake yet"
}
