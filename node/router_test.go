package node

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A node routes to the networks behind it once the server has approved that: connections and
// datagrams, to hosts that answer and hosts that do not, and nothing that it has not advertised.
// Only peers that accept routes use it.
func TestSubnetRouter(t *testing.T) {
	n := newNetwork(t)
	route := netip.MustParsePrefix("192.0.2.0/24")
	behind := newBehind(t)
	b := n.join("beta", func(c *Config) { c.Control.AdvertiseRoutes, c.DialHost = []netip.Prefix{route}, behind.dial })
	a := n.join("alpha", func(c *Config) { c.Control.AcceptRoutes = true })
	other := n.join("gamma")
	eventually(t, "all know each other",
		func() bool { return len(a.Status().Peers) == 2 && len(other.Status().Peers) == 2 })
	host := netip.MustParseAddr("192.0.2.1")
	if a.plane.routes.Load().peer(host) != nil {
		t.Error("a route that nobody has approved is used")
	}
	n.admin("POST", "/api/v1/nodes/"+b.id()+"/routes", `{"approved": ["192.0.2.0/24"]}`)
	eventually(t, "alpha has the route", func() bool { return a.plane.routes.Load().peer(host) != nil })
	if other.plane.routes.Load().peer(host) != nil {
		t.Error("a node that does not accept routes uses one")
	}

	if got, err := a.get("http://192.0.2.1/"); got != "behind" || err != nil {
		t.Errorf("a page behind the router: %q, %v", got, err)
	}
	if _, err := a.get("http://192.0.2.2/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a host that refuses: %v", err)
	}
	c, err := a.DialContext(t.Context(), "udp", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := roundTrip(t, c, "datagram", 5*time.Second); err != nil {
			t.Error(err)
		}
	}
	for _, addr := range []string{"127.0.0.1", "169.254.1.1", "100.64.9.9", "224.0.0.1", "198.51.100.1"} {
		if b.ingress.router.takes(netip.MustParseAddr(addr)) {
			t.Errorf("%s is routed", addr)
		}
	}
}

// Traffic to destinations outside the mesh leaves by the requested exit node, and by no other way
// while the exit node is not there.
func TestExitNode(t *testing.T) {
	n := newNetwork(t)
	behind := newBehind(t)
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	b := n.join("beta", func(c *Config) { c.Control.AdvertiseRoutes, c.DialHost = everywhere, behind.dial })
	b.serveHTTP(80, "beta")
	a := n.join("alpha", func(c *Config) {
		c.Control.ExitNode = "beta"
		c.DialHost = func(context.Context, string, string) (net.Conn, error) {
			t.Error("the host was asked")
			return nil, syscall.ENETUNREACH
		}
	})
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	if _, err := a.get("http://198.51.100.1/"); !errors.Is(err, fs.ErrPermission) ||
		!strings.Contains(err.Error(), "the exit node is not there") {
		t.Errorf("before the exit node is approved: %v", err)
	}
	eventually(t, "the reason of not being ready", func() bool {
		s := a.Status()
		return s.State == StateStarting && strings.HasPrefix(s.Reason, `exit node "beta": the peer is no exit node`)
	})
	n.admin("POST", "/api/v1/nodes/"+b.id()+"/routes", `{"approved": ["0.0.0.0/0", "::/0"]}`)
	eventually(t, "the exit node is there", func() bool { return a.plane.netmap.Load().ExitLost == "" })
	if got, err := a.get("http://198.51.100.1/"); got != "behind" || err != nil {
		t.Errorf("through the exit node: %q, %v", got, err)
	}
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("in the mesh: %q, %v", got, err)
	}
	if got, err := b.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("the router's own address, from itself: %q, %v", got, err)
	}
	if b.ingress.router.takes(netip.MustParseAddr("192.168.1.1")) {
		t.Error("the exit node leads into private networks")
	}
}

// behind is the network behind a router: an HTTP server and a UDP echo on one address, and nothing
// on others.
type behind struct {
	web  net.Listener
	echo net.PacketConn
}

func newBehind(t *testing.T) *behind {
	t.Helper()
	b := new(behind)
	var err error
	if b.web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if b.echo, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		io.WriteString(w, "behind")
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(b.web) })
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := b.echo.ReadFrom(buf)
			if err != nil {
				return
			}
			b.echo.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		b.echo.Close()
		wg.Wait()
	})
	return b
}

func (b *behind) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	switch {
	case (addr == "192.0.2.1:80" || addr == "198.51.100.1:80") && network == "tcp":
		return d.DialContext(ctx, network, b.web.Addr().String())
	case addr == "192.0.2.1:7" && network == "udp":
		return d.DialContext(ctx, network, b.echo.LocalAddr().String())
	}
	return nil, syscall.ECONNREFUSED
}
