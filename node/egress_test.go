package node

import (
	"net"
	"net/url"
	"sync/atomic"
	"testing"
)

// If the environment names a proxy, relays and destinations outside the mesh are reached through
// it, by CONNECT and by SOCKS5. Destinations in the mesh are not.
func TestOutboundProxy(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		m := newMesh(t)
		gate, a, b := m.add("gate"), m.add("alpha"), m.add("beta")
		gate.start(withProxy)
		b.startReady()
		b.serveHTTP(80, "beta")
		proxy := &url.URL{Scheme: scheme, Host: gate.Status().Proxies[0]}
		a.startReady(func(c *Config) {
			c.OutboundProxy = func(*url.URL) (*url.URL, error) { return proxy, nil }
		})
		if r := a.Status().Relays[0]; r.Endpoint != proxy.Host || r.Transport != "native" {
			t.Errorf("%s: the relay is at %s, %s, want the proxy at %s", scheme, r.Endpoint, r.Transport, proxy.Host)
		}
		before := gate.ingress.proxy.Stats()
		if got, err := a.get("http://beta/"); got != "beta" || err != nil {
			t.Errorf("%s: %q, %v", scheme, got, err)
		}
		if after := gate.ingress.proxy.Stats(); after.HTTP+after.SOCKS5 != before.HTTP+before.SOCKS5 {
			t.Errorf("%s: a destination in the mesh was asked of the proxy", scheme)
		}
		outside, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer outside.Close()
		c, err := a.DialContext(t.Context(), "tcp", outside.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if c.RemoteAddr().String() != proxy.Host {
			t.Errorf("%s: outside the mesh went to %v, want the proxy", scheme, c.RemoteAddr())
		}
	}
}

// A proxy in the environment that is the node itself is not used, however its address is written:
// each connection to it would make the node dial itself again.
func TestOutboundProxyIsOurself(t *testing.T) {
	for _, c := range []struct{ listen, proxy string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"127.0.0.1:0", "localhost"},
		{"127.0.0.1:0", "LOCALHOST."},
		{"127.0.0.1:0", "0.0.0.0"},
		{"[::1]:0", "[::1]"},
		{"0.0.0.0:0", "127.0.0.1"},
		{"0.0.0.0:0", "127.0.0.2"},
		{":0", "localhost"},
		{":0", "127.0.0.1"},
		{":0", "[::1]"},
	} {
		m := newMesh(t)
		a := m.add("alpha")
		var self atomic.Pointer[url.URL]
		a.start(func(cfg *Config) {
			cfg.Proxies = []net.Addr{tcp(c.listen)}
			cfg.ProxyAuth = func(string, string) bool { return false }
			cfg.OutboundProxy = func(*url.URL) (*url.URL, error) { return self.Load(), nil }
		})
		_, port, err := net.SplitHostPort(a.Status().Proxies[0])
		if err != nil {
			t.Fatal(err)
		}
		self.Store(&url.URL{Scheme: "http", Host: c.proxy + ":" + port})
		if got, err := a.host.proxyFor(&url.URL{Scheme: "https", Host: "192.0.2.1"}); got != nil || err != nil {
			t.Errorf("listening on %s, with the proxy %s: got %v, %v", c.listen, c.proxy, got, err)
		}
		self.Store(&url.URL{Scheme: "http", Host: "192.0.2.9:" + port})
		if got, err := a.host.proxyFor(&url.URL{Scheme: "https", Host: "192.0.2.1"}); got == nil || err != nil {
			t.Errorf("listening on %s, with another's proxy: got %v, %v", c.listen, got, err)
		}
	}
}

// The home relay is dialled, through the proxy of the environment, while the served ports are still
// being opened.
func TestProxyAskedForWhileStarting(t *testing.T) {
	m := newMesh(t)
	a := m.add("alpha")
	a.startReady(withProxy, func(c *Config) {
		c.OutboundProxy = func(*url.URL) (*url.URL, error) { return nil, nil }
		for port := range uint16(50) {
			c.Serves = append(c.Serves, Serve{Port: port + 1, Target: tcp("127.0.0.1:9")})
		}
	})
}
