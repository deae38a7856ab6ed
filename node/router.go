package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"ginnel/internal/meshaddr"
	"ginnel/userstack"
)

// routedFlowIdle ends a UDP flow without datagrams in either direction (RFC 4787, section 4.3, asks
// for two minutes at least).
const routedFlowIdle = 2 * time.Minute

// router makes the node a subnet router or an exit node: it carries what peers send to the
// advertised routes by sockets of its own on the host's network. The packet filter of the map has
// let each flow in before. A nil *router takes nothing.
type router struct {
	log     *slog.Logger
	life    *lifetime
	carrier *carrier
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	peerOf  func(netip.Addr) netip.Addr // names a peer by one of its addresses
	routes  []netip.Prefix              // advertised
	flows   routedFlows
	conns   routedConns
}

// newRouter returns nil if no routes are advertised.
func newRouter(g *ingress) *router {
	if g.cfg.Control == nil || len(g.cfg.Control.AdvertiseRoutes) == 0 {
		return nil
	}
	r := &router{log: g.log, life: g.life, carrier: g.carrier, dial: g.cfg.dialHost, peerOf: g.plane.peerOf,
		routes: g.cfg.Control.AdvertiseRoutes}
	r.flows.max, r.conns.max = routedFlowsMax, routedConnsMax
	return r
}

// isExit reports whether a default route is advertised.
func (r *router) isExit() bool {
	if r == nil {
		return false
	}
	isDefault := func(p netip.Prefix) bool { return p.Bits() == 0 }
	return slices.ContainsFunc(r.routes, isDefault)
}

// stackConfig returns what the stack needs to hand over routed flows; nil without a router.
func (r *router) stackConfig() *userstack.Router {
	if r == nil {
		return nil
	}
	return &userstack.Router{TCP: r.carryTCP, UDP: r.startUDP}
}

// takes reports whether dst is in an advertised route. A default route stands for the Internet: it
// does not lead into private networks, to this host or to the links of this host (control
// specification, section 6.2).
func (r *router) takes(dst netip.Addr) bool {
	if r == nil || dst.Is4In6() || dst.IsLoopback() || dst.IsLinkLocalUnicast() || dst.IsMulticast() ||
		dst.IsUnspecified() || meshaddr.Contains(dst) {
		return false
	}
	return slices.ContainsFunc(r.routes, func(p netip.Prefix) bool {
		return p.Contains(dst) && (p.Bits() > 0 || isPublic(dst) && !isOnLink(dst))
	})
}

var (
	reserved4 = netip.MustParsePrefix("224.0.0.0/3") // multicast and above
	current4  = netip.MustParsePrefix("0.0.0.0/8")
	public6   = netip.MustParsePrefix("2000::/3")
)

// isPublic reports whether a may be the address of a host on the Internet.
func isPublic(a netip.Addr) bool {
	if a.Is6() {
		return public6.Contains(a)
	}
	carrier4, _ := meshaddr.Ranges()
	return !reserved4.Contains(a) && !current4.Contains(a) && !a.IsPrivate() && !carrier4.Contains(a)
}

// carryTCP carries a connection, if routedConns has room for it.
func (r *router) carryTCP(in *userstack.ConnRequest) {
	if !r.takes(in.Dst.Addr()) {
		in.Reject()
		return
	}
	c := new(routedConn)
	evicted, ok := r.conns.add(r.peerOf(in.Src.Addr()), c)
	if !ok {
		in.Reject()
		return
	}
	if evicted != nil {
		evicted.end()
	}
	r.carrier.carry(in, in.Dst.String(), func() { r.conns.remove(c) }, func(ctx context.Context) (net.Conn, error) {
		far, err := r.dial(ctx, "tcp", in.Dst.String())
		if err == nil && !c.opened(far) {
			far.Close()
			return nil, net.ErrClosed
		}
		return far, err
	})
}

// startUDP carries the datagrams of a flow. It may end another flow, as routedFlows decides.
func (r *router) startUDP(src, dst netip.AddrPort, near net.Conn) {
	if !r.takes(dst.Addr()) {
		near.Close()
		return
	}
	f := newRoutedFlow(near)
	if evicted := r.flows.add(r.peerOf(src.Addr()), f); evicted != nil {
		evicted.end()
	}
	if !r.life.spawn(func() { r.carryUDP(dst, f) }) {
		r.flows.remove(f)
		f.end()
	}
}

func (r *router) carryUDP(dst netip.AddrPort, f *routedFlow) {
	defer r.flows.remove(f)
	defer f.end()
	far, err := r.carrier.dial(func(ctx context.Context) (net.Conn, error) { return r.dial(ctx, "udp", dst.String()) })
	if err != nil {
		r.log.Debug("routing datagrams", "to", dst, "err", err)
		return
	}
	if !f.opened(far) {
		far.Close()
		return
	}
	stop := context.AfterFunc(r.life.ctx, f.end)
	defer stop()
	f.wg.Go(func() { f.pump(far, f.near) })
	f.pump(f.near, far)
	f.wg.Wait()
}

// pump carries the datagrams of one direction until the flow is idle or a socket is closed.
func (f *routedFlow) pump(dst, src net.Conn) {
	defer f.end()
	b := make([]byte, userstack.MaxDatagram)
	for {
		src.SetReadDeadline(time.Unix(0, f.heard.Load()).Add(routedFlowIdle))
		n, err := src.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, f.heard.Load())) < routedFlowIdle:
			continue // there were datagrams in the other direction
		case err != nil:
			return
		}
		f.heard.Store(time.Now().UnixNano())
		if _, err := dst.Write(b[:n]); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
