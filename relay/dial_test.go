package relay

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
)

// Which ways lead to a node, for what the map says (1.10).
func TestTargetRoutes(t *testing.T) {
	for _, c := range []struct {
		node Node
		want []dialRoute
	}{
		{Node{HostName: "h"}, []dialRoute{{"tcp4", "h:443"}, {"tcp6", "h:443"}}},
		{Node{HostName: "h", DERPPort: 8443, IPv4: "192.0.2.1", IPv6: "2001:db8::1"},
			[]dialRoute{{"tcp4", "192.0.2.1:8443"}, {"tcp6", "[2001:db8::1]:8443"}}},
		{Node{HostName: "h", IPv4: "none"}, []dialRoute{{"tcp6", "h:443"}}},
		{Node{HostName: "h", IPv6: "192.0.2.1"}, []dialRoute{{"tcp4", "h:443"}}},
		{Node{HostName: "h", IPv4: "none", IPv6: "none"}, nil},
		{Node{HostName: "192.0.2.1"}, []dialRoute{{"tcp4", "192.0.2.1:443"}}},
		{Node{HostName: "2001:db8::1"}, []dialRoute{{"tcp6", "[2001:db8::1]:443"}}},
		{Node{HostName: "192.0.2.1", IPv6: "2001:db8::1"}, []dialRoute{{"tcp4", "192.0.2.1:443"}}},
	} {
		got := nodeTargets(&Region{Nodes: []*Node{&c.node}})[0].routes()
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.node, got, c.want)
		}
	}
}

func TestNodeTargets(t *testing.T) {
	ts := nodeTargets(&Region{Nodes: []*Node{nil, {Name: "1a", HostName: "a", STUNOnly: true},
		{Name: "1b", HostName: "b"}, nil, {Name: "1c", HostName: "c"}}})
	if len(ts) != 2 || ts[0].host != "b" || ts[1].host != "c" || ts[0].ideal != "" || ts[1].ideal != "1b" {
		t.Errorf("got %+v", ts)
	}
	if ts := nodeTargets(&Region{Nodes: []*Node{nil}}); len(ts) != 0 {
		t.Errorf("nothing but a null node: got %+v", ts)
	}
}

// slowNet dials as it is told: how long each address takes, and with which result.
type slowNet struct {
	mu    sync.Mutex
	takes map[string]time.Duration
	fails map[string]error
	open  int
	order []string
}

type countedConn struct {
	net.Conn
	n    *slowNet
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.n.mu.Lock()
		c.n.open--
		c.n.mu.Unlock()
	})
	return c.Conn.Close()
}

func (n *slowNet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	name := network + " " + addr
	n.mu.Lock()
	n.order = append(n.order, name)
	n.mu.Unlock()
	select {
	case <-time.After(n.takes[name]):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := n.fails[name]; err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.open++
	n.mu.Unlock()
	near, _ := net.Pipe()
	return &countedConn{Conn: near, n: n}, nil
}

var errTestDial = errors.New("no route to host")

// Both families race, the loser is closed, a node has 1.5 s, then comes the next.
func TestDialRace(t *testing.T) {
	for name, c := range map[string]struct {
		takes map[string]time.Duration
		fails map[string]error
		want  string // host that is reached; empty for an error
		after time.Duration
	}{
		"the faster wins": {map[string]time.Duration{"tcp4 a:443": 100 * time.Millisecond,
			"tcp6 a:443": 50 * time.Millisecond}, nil, "a", 50 * time.Millisecond},
		"both at once": {nil, nil, "a", 0},
		"one fails": {map[string]time.Duration{"tcp4 a:443": 100 * time.Millisecond},
			map[string]error{"tcp6 a:443": errTestDial}, "a", 100 * time.Millisecond},
		"both fail": {nil, map[string]error{"tcp4 a:443": errTestDial, "tcp6 a:443": errTestDial}, "b", 0},
		"one is too slow": {map[string]time.Duration{"tcp4 a:443": time.Hour, "tcp6 a:443": time.Hour}, nil, "b",
			nodeTimeout},
		"nobody is there": {nil, map[string]error{"tcp4 a:443": errTestDial, "tcp6 a:443": errTestDial,
			"tcp4 b:443": errTestDial, "tcp6 b:443": errTestDial}, "", 0},
		"nobody in time": {map[string]time.Duration{"tcp4 a:443": time.Hour, "tcp6 a:443": time.Hour,
			"tcp4 b:443": time.Hour, "tcp6 b:443": time.Hour}, nil, "", 2 * nodeTimeout},
		"slower, but only": {map[string]time.Duration{"tcp4 a:443": time.Second},
			map[string]error{"tcp6 a:443": errTestDial}, "a", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &slowNet{takes: c.takes, fails: c.fails}
				r := &Region{Nodes: []*Node{{Name: "1a", HostName: "a"}, {Name: "1b", HostName: "b"}}}
				start := time.Now()
				conn, tg, err := dialAny(t.Context(), &ClientConfig{DialContext: n.dial}, nodeTargets(r))
				if d := time.Since(start); d != c.after {
					t.Errorf("took %v, want %v", d, c.after)
				}
				if c.want == "" {
					if err == nil || !strings.Contains(err.Error(), "dialling b") {
						t.Errorf("got %v", err)
					}
				} else if err != nil || tg.host != c.want {
					t.Fatalf("got %+v, %v", tg, err)
				} else {
					conn.Close()
				}
				if n.open != 0 {
					t.Errorf("%d connections left open", n.open)
				}
			})
		})
	}
	if _, _, err := dialAny(t.Context(), &ClientConfig{}, nil); !errors.Is(err, errNoNode) {
		t.Errorf("region without nodes: %v", err)
	}
	none := &target{host: "h", v4: "none", v6: "none"}
	if _, err := dialTCP(t.Context(), &ClientConfig{}, none); !errors.Is(err, errNoFamily) {
		t.Errorf("node without families: %v", err)
	}
}

// The proxy that the configuration names carries the connection. Without a way to dial it, Dial
// fails.
func TestDialProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rawpeer.StartServer(t)
		proxy := &url.URL{Scheme: "http", Host: "proxy.example:3128"}
		var asked []string
		cfg := ClientConfig{
			Key: key.NewNodePrivate(),
			Proxy: func(u *url.URL) (*url.URL, error) {
				asked = append(asked, u.String())
				return proxy, nil
			},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.Error("dialled directly")
				return nil, errTestDial
			},
		}
		if _, err := Dial(t.Context(), rawpeer.URL, cfg); !errors.Is(err, errNoDialProxy) {
			t.Errorf("without DialProxy: %v", err)
		}
		cfg.DialProxy = func(ctx context.Context, u *url.URL, addr string) (net.Conn, error) {
			if u != proxy || addr != "relay.example:80" {
				t.Errorf("asked for %s through %s", addr, u)
			}
			time.Sleep(3 * time.Second) // the 1.5 s for a node do not apply here
			return r.Net.DialContext(ctx, "tcp", addr)
		}
		go func() {
			peer, client, _ := r.AcceptLogin()
			peer.Admit(client, derp.ServerInfo{Version: 2})
		}()
		c, err := Dial(t.Context(), rawpeer.URL, cfg)
		if err != nil {
			t.Fatal(err)
		}
		WantKind(t, c, MessageLoggedIn)
		c.Close()
		if asked[0] != rawpeer.URL {
			t.Errorf("asked for the proxy of %q", asked)
		}
		cfg.Proxy = func(*url.URL) (*url.URL, error) { return nil, errors.New("bad NO_PROXY") }
		if _, err := Dial(t.Context(), rawpeer.URL, cfg); err == nil ||
			!strings.Contains(err.Error(), "choosing a proxy: bad NO_PROXY") {
			t.Errorf("got %v", err)
		}
	})
}
