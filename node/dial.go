package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"

	"ginnel/internal/neterr"
	"ginnel/internal/resolver"
)

// dialer opens connections, and the far sides of UDP associations, to destinations inside and
// outside the mesh. It also resolves names.
type dialer struct {
	cfg       *Config
	log       *slog.Logger
	life      *lifetime
	plane     *dataPlane
	host      *hostDialer
	member    *membership // nil without a coordination server
	endpoints *endpointKeeper

	names resolver.Resolver // asks DNS servers of the map
	doh   *dohClient        // asks those that have a URL

	foreignDatagrams atomic.Uint64 // dropped datagrams from hosts to which no association had sent anything
}

func newDialer(n *Node) *dialer {
	d := &dialer{cfg: &n.cfg, log: n.log, life: n.life, plane: n.plane, host: n.host, member: n.member,
		endpoints: n.endpoints}
	d.doh = newDoHClient(d)
	d.names = resolver.Resolver{Dial: d.dialAddr, Post: d.doh.post}
	return d
}

// DialContext connects to addr, host:port, over "tcp" or "udp". A host in the mesh is reached
// through the mesh and never on the host's network; everything else is dialled from the host,
// through the proxy that Config.OutboundProxy names if there is one, unless Config.MeshOnly is set.
//
// Errors wrap the errno that a socket of the system would give, fs.ErrPermission if policy is the
// reason, and *net.DNSError if the name is.
func (n *Node) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := n.dialer.dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", addr, neterr.Cause(addr, err))
	}
	return c, nil
}

// dial is Node.DialContext without the destination in its errors.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.life.isClosed() {
		return nil, net.ErrClosed
	}
	if d.member != nil {
		if err := d.member.await(ctx); err != nil {
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
		return d.dialAddr(ctx, network, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	if d.leavesToProxy(network, host) {
		return d.dialHost(ctx, network, addr)
	}
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, network, d.preferred(addrs), uint16(port))
}

// dialAddr connects to one address, through the mesh or from the host. Only the host's network has
// zones: the mesh is one link.
func (d *dialer) dialAddr(ctx context.Context, network string, hostAddr netip.AddrPort) (net.Conn, error) {
	r := d.plane.routes.Load()
	ap := netip.AddrPortFrom(hostAddr.Addr().WithZone(""), hostAddr.Port())
	if !r.inMesh(ap.Addr()) {
		return d.dialHost(ctx, network, hostAddr.String())
	}
	peer := r.peer(ap.Addr())
	if peer == nil && !r.isOwn(ap.Addr()) {
		return nil, noPeerError(ap.Addr())
	}
	d.wakePeer(peer)
	if err := d.plane.awaitUp(ctx); err != nil {
		return nil, d.explain(err, ap, peer)
	}
	d.endpoints.races.start(peer)
	c, err := d.dialPeer(ctx, network, ap, peer)
	if err != nil {
		return nil, d.explain(err, ap, peer)
	}
	return c, nil
}

// wakePeer is called before packets are sent to a peer; nil is this node. It is cheap for a peer
// with which this node has spoken before.
func (d *dialer) wakePeer(p *Peer) {
	if p != nil && d.plane.peers.wakeToDial(p.Key) {
		d.life.spawn(func() { d.retryHandshake(p.Key) })
	}
	d.endpoints.races.start(p)
}
