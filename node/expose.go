package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"ginnel/internal/share"
	"ginnel/internal/sockowner"
	"ginnel/internal/sys"
	"ginnel/proxy"
	"ginnel/userstack"
)

// The listeners of a node: the proxies, the forwards that lead into the mesh and the served ports
// that lead out of it.

// openListeners opens the local ports. It comes first when a node starts: a port that is taken is
// the most likely thing to be wrong.
func (n *Node) openListeners() error {
	n.proxy = &proxy.Server{
		Dial:         n.dial,
		ListenPacket: n.listenDatagrams,
		Auth:         n.cfg.ProxyAuth,
		Pages:        n.pages(),
		TrustPage:    n.hasToken,
		DialTimeout:  n.cfg.dialTimeout(),

		MaxHandshakes:   n.cfg.maxHandshakes(),
		MaxAssociations: n.cfg.maxAssociations(),
		SocketBuffer:    n.cfg.socketBuffer(),

		Log:     n.log,
		ConnLog: n.cfg.ConnLog,
	}
	for _, a := range n.cfg.Proxies {
		ln, err := listenOn(a)
		if err != nil {
			return fmt.Errorf("opening the proxy: %w", err)
		}
		n.addListener(entryProxy, ln, n.proxy.Serve)
	}
	if a := n.cfg.UserProxy; a != nil && sockowner.Known(context.Background()) {
		ln, err := listenOn(a)
		if err != nil {
			return fmt.Errorf("opening the proxy for this user: %w", err)
		}
		n.addListener(entryUserProxy, ln, n.proxy.ServeUser)
	}
	for _, f := range n.cfg.Forwards {
		if err := n.openForward(f); err != nil {
			return fmt.Errorf("opening the forward to %s: %w", f.Target, err)
		}
	}
	if n.cfg.DNS != nil {
		if err := n.openDNS(n.cfg.DNS.String()); err != nil {
			return fmt.Errorf("opening the DNS server: %w", err)
		}
	}
	for _, e := range n.entries {
		if a, ok := e.addr.(*net.TCPAddr); ok {
			n.local = append(n.local, a.AddrPort())
		}
	}
	return nil
}

// entry is an open listener and what serves it until it is closed.
type entry struct {
	kind   entryKind
	closer io.Closer
	addr   net.Addr
	serve  func() error // until it is closed; at once where the stack does it
}

// entryKind says what a listener is for.
type entryKind int

const (
	entryProxy     entryKind = iota
	entryUserProxy           // without a password, for this user
	entryForward             // into the mesh
	entryServe               // out of the mesh
	entryDNS
	entryExitDNS
)

func (k entryKind) String() string {
	return [...]string{"proxy", "proxy for this user", "forward", "served port", "DNS server", "DNS server of the exit node"}[k]
}

func (n *Node) addListener(kind entryKind, ln net.Listener, serve func(net.Listener) error) {
	n.entries = append(n.entries, entry{kind, ln, ln.Addr(), func() error { return serve(ln) }})
}

func (n *Node) addPacketConn(kind entryKind, pc net.PacketConn, serve func(net.PacketConn) error) {
	n.entries = append(n.entries, entry{kind, pc, pc.LocalAddr(), func() error { return serve(pc) }})
}

func (n *Node) openForward(f Forward) error {
	if f.Listen.Network() == "udp" {
		pc, err := net.ListenPacket("udp", f.Listen.String())
		if err != nil {
			return err
		}
		dial := n.complaining(entryForward, f.Target, func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, "udp", f.Target) })
		n.addPacketConn(entryForward, pc, func(pc net.PacketConn) error { return n.proxy.ForwardPackets(pc, f.Target, dial) })
		n.log.Info("forwarding datagrams", "listen", addrText(pc.LocalAddr()), "to", f.Target)
		return nil
	}
	ln, err := listenOn(f.Listen)
	if err != nil {
		return err
	}
	dial := n.complaining(entryForward, f.Target, func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, "tcp", f.Target) })
	n.addListener(entryForward, ln, func(ln net.Listener) error { return n.proxy.Forward(ln, f.Target, dial) })
	n.log.Info("forwarding", "listen", addrText(ln.Addr()), "to", f.Target)
	return nil
}

// UserProxyAddr returns where the proxy of Config.UserProxy listens, or nil.
func (n *Node) UserProxyAddr() net.Addr {
	for _, e := range n.entries {
		if e.kind == entryUserProxy {
			return e.addr
		}
	}
	return nil
}

// complaintRate bounds the lines about failures of one forward or served port, which peers can
// cause.
var complaintRate = share.Rate[netip.Addr]{Each: 1, All: 1, Span: 5 * time.Second}

// complaining logs the failures of a dial function whose client has no way to be told of them.
func (n *Node) complaining(kind entryKind, target string, dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	lines := share.NewLines(n.log.With("kind", kind, "to", target), slog.LevelWarn, "connection not made", complaintRate)
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
			lines.Write(time.Now(), netip.Addr{}, "err", err)
		}
		return c, err
	}
}

// openServes opens the ports in the mesh; the stack exists by then.
func (n *Node) openServes() error {
	for _, s := range n.cfg.Serves {
		if err := n.openServe(s); err != nil {
			return fmt.Errorf("serving port %d: %w", s.Port, err)
		}
	}
	return nil
}

func (n *Node) openServe(s Serve) error {
	addr := netip.AddrPortFrom(netip.Addr{}, s.Port)
	dial := n.complaining(entryServe, addrText(s.Target), func(ctx context.Context) (net.Conn, error) {
		return dialPatiently(ctx, s.Target.Network(), s.Target.String())
	})
	if s.Target.Network() == "udp" {
		pc, err := n.servePackets(addr)
		if err != nil {
			return err
		}
		n.addPacketConn(entryServe, pc, func(pc net.PacketConn) error { return n.proxy.ForwardPackets(pc, addrText(s.Target), dial) })
		return nil
	}
	ln, err := n.stack.ListenRequests(s.Port, func(in *userstack.ConnRequest) { n.carry(in, addrText(s.Target), func() {}, dial) })
	if err != nil {
		return err
	}
	n.entries = append(n.entries, entry{kind: entryServe, closer: ln, addr: &net.TCPAddr{Port: int(s.Port)}, serve: func() error { return nil }})
	return nil
}

// serveEntries serves all that was opened.
func (n *Node) serveEntries() {
	for _, e := range n.entries {
		n.wg.Go(func() { n.serveEntry(e) })
	}
}

func (n *Node) serveEntry(e entry) {
	if err := e.serve(); err != nil && !errors.Is(err, net.ErrClosed) {
		n.log.Error("listener ended", "kind", e.kind, "addr", e.addr, "err", err)
	}
}

// maxSocketPath is the room in sockaddr_un: 104 bytes where it is least, with a zero at the end.
const maxSocketPath = 103

// listenOn opens a "tcp" or "unix" listener. The socket file of a process that is gone is removed;
// one that answers is taken.
func listenOn(a net.Addr) (net.Listener, error) {
	if a.Network() == "unix" && len(a.String()) > maxSocketPath {
		return nil, fmt.Errorf("%s: the path of a socket has at most %d bytes, not %d", a, maxSocketPath, len(a.String()))
	}
	if a.Network() == "tcp" {
		return sys.ListenTCP(a.String())
	}
	ln, err := net.Listen(a.Network(), a.String())
	if errors.Is(err, syscall.EADDRINUSE) && isDeadSocket(a.String()) {
		if err := os.Remove(a.String()); err != nil {
			return nil, err
		}
		ln, err = net.Listen("unix", a.String())
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(a.String(), 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// isDeadSocket reports whether path is a socket on which nobody listens.
func isDeadSocket(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// proxyAddrs are the addresses of the proxies as they are: a port that was left open is chosen.
func (n *Node) proxyAddrs() []net.Addr {
	var addrs []net.Addr
	for _, e := range n.entries {
		if e.kind == entryProxy {
			addrs = append(addrs, e.addr)
		}
	}
	return addrs
}

// addrText is a listener's address as a user would write it.
func addrText(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}
