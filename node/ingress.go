package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"ginnel/internal/share"
	"ginnel/internal/sockowner"
	"ginnel/proxy"
	"ginnel/userstack"
)

// ingress accepts connections and datagrams: on this machine by the proxies, the forwards and the
// DNS server, and in the mesh by the served ports, the router and the DNS server of an exit node.
type ingress struct {
	cfg    *Config
	log    *slog.Logger
	life   *lifetime
	plane  *dataPlane
	dialer *dialer
	host   *hostDialer
	member *membership // nil without a coordination server

	proxy   *proxy.Server
	carrier *carrier
	router  *router  // nil unless routes are advertised
	exitDNS *exitDNS // nil unless this is an exit node
	entries []entry  // only changed while the node starts
}

// newIngress opens nothing. pages serves requests to the proxies themselves, of which trust lets
// some in without a password.
func newIngress(n *Node, pages http.Handler, trust func(*http.Request) bool) *ingress {
	g := &ingress{cfg: &n.cfg, log: n.log, life: n.life, plane: n.plane, dialer: n.dialer, host: n.host, member: n.member}
	g.proxy = &proxy.Server{
		Dial:         g.dialer.dial,
		ListenPacket: g.dialer.listenDatagrams,
		Auth:         g.cfg.ProxyAuth,
		Pages:        pages,
		TrustPage:    trust,
		DialTimeout:  g.cfg.dialTimeout(),

		MaxHandshakes:   g.cfg.maxHandshakes(),
		MaxAssociations: g.cfg.maxAssociations(),
		SocketBuffer:    g.cfg.socketBuffer(),

		Log:     g.log,
		ConnLog: g.cfg.ConnLog,
	}
	g.carrier = &carrier{log: g.log, life: g.life, proxy: g.proxy}
	g.router = newRouter(g)
	return g
}

// entry is an open listener.
type entry struct {
	kind   entryKind
	closer io.Closer
	addr   net.Addr
	serve  func() error // blocks until closer is closed; returns nil at once if the stack serves the port
}

// entryKind is the purpose of a listener.
type entryKind int

const (
	entryProxy     entryKind = iota
	entryUserProxy           // without a password, for this user
	entryForward             // into the mesh
	entryServe               // a port in the mesh
	entryDNS
	entryExitDNS
)

func (k entryKind) String() string {
	return [...]string{"proxy", "proxy for this user", "forward", "served port", "DNS server",
		"DNS server of the exit node"}[k]
}

// openListeners opens the ports on this machine. A node does this first when it starts, because a
// port in use is the most likely cause of a failure.
func (g *ingress) openListeners() error {
	for _, a := range g.cfg.Proxies {
		ln, err := listenOn(a)
		if err != nil {
			return fmt.Errorf("opening the proxy: %w", err)
		}
		g.addListener(entryProxy, ln, g.proxy.Serve)
	}
	if a := g.cfg.UserProxy; a != nil && sockowner.Known(context.Background()) {
		ln, err := listenOn(a)
		if err != nil {
			return fmt.Errorf("opening the proxy for this user: %w", err)
		}
		g.addListener(entryUserProxy, ln, g.proxy.ServeUser)
	}
	for _, f := range g.cfg.Forwards {
		if err := g.openForward(f); err != nil {
			return fmt.Errorf("opening the forward to %s: %w", f.Target, err)
		}
	}
	if g.cfg.DNS != nil {
		if err := g.openDNS(g.cfg.DNS.String()); err != nil {
			return fmt.Errorf("opening the DNS server: %w", err)
		}
	}
	for _, e := range g.entries {
		if a, ok := e.addr.(*net.TCPAddr); ok {
			g.host.own = append(g.host.own, a.AddrPort())
		}
	}
	return nil
}

func (g *ingress) addListener(kind entryKind, ln net.Listener, serve func(net.Listener) error) {
	g.entries = append(g.entries, entry{kind, ln, ln.Addr(), func() error { return serve(ln) }})
}

func (g *ingress) addPacketConn(kind entryKind, pc net.PacketConn, serve func(net.PacketConn) error) {
	g.entries = append(g.entries, entry{kind, pc, pc.LocalAddr(), func() error { return serve(pc) }})
}

func (g *ingress) openForward(f Forward) error {
	if f.Listen.Network() == "udp" {
		pc, err := net.ListenPacket("udp", f.Listen.String())
		if err != nil {
			return err
		}
		dial := g.logFailures(entryForward, f.Target, func(ctx context.Context) (net.Conn, error) {
			return g.dialer.dial(ctx, "udp", f.Target)
		})
		g.addPacketConn(entryForward, pc, func(pc net.PacketConn) error { return g.proxy.ForwardPackets(pc, f.Target, dial) })
		g.log.Info("forwarding datagrams", "listen", addrText(pc.LocalAddr()), "to", f.Target)
		return nil
	}
	ln, err := listenOn(f.Listen)
	if err != nil {
		return err
	}
	dial := g.logFailures(entryForward, f.Target, func(ctx context.Context) (net.Conn, error) {
		return g.dialer.dial(ctx, "tcp", f.Target)
	})
	g.addListener(entryForward, ln, func(ln net.Listener) error { return g.proxy.Forward(ln, f.Target, dial) })
	g.log.Info("forwarding connections", "listen", addrText(ln.Addr()), "to", f.Target)
	return nil
}

// failureRate bounds the log lines about failures of one forward or served port, because peers can
// cause them.
var failureRate = share.Rate[netip.Addr]{Each: 1, All: 1, Span: 5 * time.Second}

// logFailures logs the errors of a dial function, because its client cannot be told of them.
func (g *ingress) logFailures(kind entryKind, target string, dial dialFunc) dialFunc {
	lines := share.NewLines(g.log.With("kind", kind, "to", target), slog.LevelWarn, "connection not made", failureRate)
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
			lines.Write(time.Now(), netip.Addr{}, "err", err)
		}
		return c, err
	}
}

// openServes opens the ports in the mesh. The stack must be open.
func (g *ingress) openServes() error {
	for _, s := range g.cfg.Serves {
		if err := g.openServe(s); err != nil {
			return fmt.Errorf("serving port %d: %w", s.Port, err)
		}
	}
	return nil
}

func (g *ingress) openServe(s Serve) error {
	addr := netip.AddrPortFrom(netip.Addr{}, s.Port)
	dial := g.logFailures(entryServe, addrText(s.Target), func(ctx context.Context) (net.Conn, error) {
		return dialWithRetry(ctx, s.Target.Network(), s.Target.String())
	})
	if s.Target.Network() == "udp" {
		pc, err := g.listenReplying(addr)
		if err != nil {
			return err
		}
		g.addPacketConn(entryServe, pc, func(pc net.PacketConn) error {
			return g.proxy.ForwardPackets(pc, addrText(s.Target), dial)
		})
		return nil
	}
	ln, err := g.plane.stack.ListenRequests(s.Port, func(in *userstack.ConnRequest) {
		g.carrier.carry(in, addrText(s.Target), func() {}, dial)
	})
	if err != nil {
		return err
	}
	g.entries = append(g.entries, entry{kind: entryServe, closer: ln, addr: &net.TCPAddr{Port: int(s.Port)},
		serve: func() error { return nil }})
	return nil
}

// serve serves all open listeners.
func (g *ingress) serve() {
	for _, e := range g.entries {
		g.life.spawn(func() { g.serveEntry(e) })
	}
}

func (g *ingress) serveEntry(e entry) {
	if err := e.serve(); err != nil && !errors.Is(err, net.ErrClosed) {
		g.log.Error("listener ended", "kind", e.kind, "addr", e.addr, "err", err)
	}
}

// close closes the listeners, and then the connections of the proxies.
func (g *ingress) close() {
	for _, e := range g.entries {
		e.closer.Close()
	}
	g.proxy.Close()
}

// addrs returns the addresses of the listeners of a kind. A port that the settings left open has
// been chosen.
func (g *ingress) addrs(kind entryKind) (addrs []net.Addr) {
	for _, e := range g.entries {
		if e.kind == kind {
			addrs = append(addrs, e.addr)
		}
	}
	return addrs
}

// UserProxyAddr returns where the proxy of Config.UserProxy listens, or nil.
func (n *Node) UserProxyAddr() net.Addr {
	if addrs := n.ingress.addrs(entryUserProxy); len(addrs) > 0 {
		return addrs[0]
	}
	return nil
}

// dnsAddr returns where the DNS server listens; empty if there is none.
func (g *ingress) dnsAddr() string {
	if addrs := g.addrs(entryDNS); len(addrs) > 0 {
		return addrs[0].String()
	}
	return ""
}

// accepts is the filter of the stack: it lets in what the map allows. The stack itself refuses what
// is let in and not served.
func (g *ingress) accepts(f userstack.Flow) bool {
	m := g.plane.netmap.Load()
	isOwn := g.plane.routes.Load().isOwn(f.Dst.Addr())
	switch f.Protocol {
	case userstack.TCP, userstack.UDP:
		if !isOwn && (m.Filter == nil || !g.router.takes(f.Dst.Addr())) {
			return false
		}
	default:
		if !isOwn || !m.Mesh {
			return false
		}
	}
	if m.Filter == nil || m.Filter(f) {
		return true
	}
	if isOwn && f.Protocol == userstack.TCP && g.exitDNS.admits(f.Src.Addr(), f.Dst.Port()) {
		return true
	}
	if f.Protocol == userstack.TCP {
		g.plane.stack.SendRejection(f)
	}
	return false
}
