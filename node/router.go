package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"ginnel/internal/meshaddr"
	"ginnel/userstack"
)

// A node that advertises routes carries what peers send there: as a subnet router or an exit node,
// in user space, by connections of its own on the host's network. The packet filter of the map has
// decided about each before.

// routedFlowIdle is how long a pair of UDP addresses may be silent.
const routedFlowIdle = 2 * time.Minute

// router is the node as a router.
type router struct {
	n      *Node
	routes []netip.Prefix // advertised
	flows  routedFlows
	conns  routedConns
}

// newRouter returns nil if there is nothing to route.
func newRouter(n *Node) *router {
	if n.cfg.Control == nil || len(n.cfg.Control.AdvertiseRoutes) == 0 {
		return nil
	}
	r := &router{n: n, routes: n.cfg.Control.AdvertiseRoutes}
	r.flows.max, r.conns.max = routedFlowsMax, routedConnsMax
	return r
}

// isExit reports whether this node offers to be an exit node.
func (r *router) isExit() bool {
	if r == nil {
		return false
	}
	isDefault := func(p netip.Prefix) bool { return p.Bits() == 0 }
	return slices.ContainsFunc(r.routes, isDefault)
}

// stackConfig is the stack's part.
func (r *router) stackConfig() *userstack.Router {
	if r == nil {
		return nil
	}
	return &userstack.Router{TCP: r.carryTCP, UDP: r.startUDP}
}

// takes reports whether we have said that dst is behind us. A default route is the way to the
// Internet: not into private networks, not to this host itself, and not to its neighbours (control
// specification, section 6.2).
func (r *router) takes(dst netip.Addr) bool {
	if r == nil || dst.Is4In6() || dst.IsLoopback() || dst.IsLinkLocalUnicast() || dst.IsMulticast() || dst.IsUnspecified() || meshaddr.Contains(dst) {
		return false
	}
	return slices.ContainsFunc(r.routes, func(p netip.Prefix) bool {
		return p.Contains(dst) && (p.Bits() > 0 || isPublic(dst) && !isNeighbour(dst))
	})
}

var (
	reserved4 = netip.MustParsePrefix("224.0.0.0/3") // multicast and above
	current4  = netip.MustParsePrefix("0.0.0.0/8")
	public6   = netip.MustParsePrefix("2000::/3")
)

// isPublic reports whether a is an address that hosts on the Internet have.
func isPublic(a netip.Addr) bool {
	if a.Is6() {
		return public6.Contains(a)
	}
	carrier4, _ := meshaddr.Ranges()
	return !reserved4.Contains(a) && !current4.Contains(a) && !a.IsPrivate() && !carrier4.Contains(a)
}

// isNeighbour reports whether a is in a network that an interface of this host is in. It is asked
// when something new is to be reached.
func isNeighbour(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Masked().Contains(a)
	})
}

// carryTCP connects to the destination, if there is room for one more.
func (r *router) carryTCP(in *userstack.ConnRequest) {
	if !r.takes(in.Dst.Addr()) {
		in.Reject()
		return
	}
	c := new(routedConn)
	evicted, ok := r.conns.add(r.n.peerOf(in.Src.Addr()), c)
	if !ok {
		in.Reject()
		return
	}
	if evicted != nil {
		evicted.end()
	}
	r.n.carry(in, in.Dst.String(), func() { r.conns.remove(c) }, func(ctx context.Context) (net.Conn, error) {
		far, err := r.n.cfg.dialHost(ctx, "tcp", in.Dst.String())
		if err == nil && !c.opened(far) {
			far.Close()
			return nil, net.ErrClosed
		}
		return far, err
	})
}

// startUDP carries the datagrams between two addresses. If there is no room for one more pair, the
// idlest of the peer that has most makes some.
func (r *router) startUDP(src, dst netip.AddrPort, near net.Conn) {
	if !r.takes(dst.Addr()) {
		near.Close()
		return
	}
	f := newRoutedFlow(near)
	if evicted := r.flows.add(r.n.peerOf(src.Addr()), f); evicted != nil {
		evicted.end()
	}
	if !r.n.spawn(func() { r.carryUDP(dst, f) }) {
		r.flows.remove(f)
		f.end()
	}
}

func (r *router) carryUDP(dst netip.AddrPort, f *routedFlow) {
	defer r.flows.remove(f)
	defer f.end()
	far, err := r.n.dialOut(func(ctx context.Context) (net.Conn, error) {
		return r.n.cfg.dialHost(ctx, "udp", dst.String())
	})
	if err != nil {
		r.n.log.Debug("routing datagrams", "to", dst, "err", err)
		return
	}
	if !f.opened(far) {
		far.Close()
		return
	}
	f.wg.Go(func() { f.endWith(r.n.closec) })
	f.wg.Go(func() { f.pump(far, f.near) })
	f.pump(f.near, far)
	f.wg.Wait()
}

// endWith closes the flow when the node is closed, unless it ends before.
func (f *routedFlow) endWith(closec <-chan struct{}) {
	select {
	case <-closec:
		f.end()
	case <-f.endc:
	}
}

// pump carries one direction until the flow is idle or a socket is closed.
func (f *routedFlow) pump(dst, src net.Conn) {
	defer f.end()
	b := make([]byte, userstack.MaxDatagram)
	for {
		src.SetReadDeadline(time.Unix(0, f.heard.Load()).Add(routedFlowIdle))
		n, err := src.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, f.heard.Load())) < routedFlowIdle:
			continue // the other direction was busy
		case err != nil:
			return
		}
		f.heard.Store(time.Now().UnixNano())
		if _, err := dst.Write(b[:n]); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
