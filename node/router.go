package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/userstack"
)

// A node that advertises routes carries what peers send there: as a subnet router or an exit node, in user space, by
// connections of its own on the host's network. The packet filter of the map has decided about each before.

const (
	routedFlowIdle = 2 * time.Minute // of a pair of UDP addresses
	routedFlowsMax = 1024
	routedConnsMax = 4096
)

// router is the node as a router.
type router struct {
	n      *Node
	routes []netip.Prefix // advertised
	flows  atomic.Int32
	conns  atomic.Int32
}

// newRouter returns nil if there is nothing to route.
func newRouter(n *Node) *router {
	if n.cfg.Control == nil || len(n.cfg.Control.AdvertiseRoutes) == 0 {
		return nil
	}
	return &router{n: n, routes: n.cfg.Control.AdvertiseRoutes}
}

// stackConfig is the stack's part.
func (r *router) stackConfig() *userstack.Router {
	if r == nil {
		return nil
	}
	return &userstack.Router{TCP: r.carryTCP, UDP: r.startUDP}
}

// takes reports whether we have said that dst is behind us. A default route is the way to the Internet: not into private
// networks, not to this host itself, and not to its neighbours (control specification, section 6.2).
func (r *router) takes(dst netip.Addr) bool {
	if r == nil || dst.Is4In6() || dst.IsLoopback() || dst.IsLinkLocalUnicast() || dst.IsMulticast() || dst.IsUnspecified() || isMeshAddr(dst) {
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
	return !reserved4.Contains(a) && !current4.Contains(a) && !a.IsPrivate() && !chromeOS.Contains(a)
}

// isNeighbour reports whether a is in a network that an interface of this host is in. It is asked when something new is
// to be reached.
func isNeighbour(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Masked().Contains(a)
	})
}

// carryTCP connects to the destination, if there is room for one more.
func (r *router) carryTCP(in *userstack.Incoming) {
	if !r.takes(in.Dst.Addr()) {
		in.Refuse()
		return
	}
	done := func() { r.conns.Add(-1) }
	if r.conns.Add(1) > routedConnsMax {
		done()
		in.Refuse()
		return
	}
	r.n.carry(in, in.Dst.String(), done, func(ctx context.Context) (net.Conn, error) {
		return r.n.cfg.dialHost(ctx, "tcp", in.Dst.String())
	})
}

// startUDP carries the datagrams between two addresses, if there is room for one more pair.
func (r *router) startUDP(src, dst netip.AddrPort, near net.Conn) {
	if !r.takes(dst.Addr()) || r.flows.Add(1) > routedFlowsMax {
		r.flows.Add(-1)
		near.Close()
		return
	}
	if !r.n.spawn(func() { r.carryUDP(dst, near) }) {
		near.Close()
	}
}

func (r *router) carryUDP(dst netip.AddrPort, near net.Conn) {
	defer r.flows.Add(-1)
	defer near.Close()
	far, err := r.n.dialOut(func(ctx context.Context) (net.Conn, error) {
		return r.n.cfg.dialHost(ctx, "udp", dst.String())
	})
	if err != nil {
		r.n.log.Debug("routing datagrams", "to", dst, "err", err)
		return
	}
	f := &routedFlow{near: near, far: far, endc: make(chan struct{})}
	f.heard.Store(time.Now().UnixNano())
	f.wg.Go(func() { f.endWith(r.n.closec) })
	f.wg.Go(func() { f.pump(far, near) })
	f.pump(near, far)
	f.wg.Wait()
}

// routedFlow is a pair of UDP addresses, one behind us.
type routedFlow struct {
	near, far net.Conn
	heard     atomic.Int64 // Unix nanoseconds of the last datagram, in either direction
	endc      chan struct{}
	once      sync.Once
	wg        sync.WaitGroup
}

// endWith closes the flow when the node is closed, unless it ends before.
func (f *routedFlow) endWith(closec <-chan struct{}) {
	select {
	case <-closec:
		f.end()
	case <-f.endc:
	}
}

func (f *routedFlow) end() {
	f.once.Do(func() {
		close(f.endc)
		f.near.Close()
		f.far.Close()
	})
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
