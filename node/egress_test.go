package node

import (
	"net"
	"net/url"
	"sync/atomic"
	"testing"
)

// Where the environment names a proxy, relays and destinations outside the mesh are reached through it, by CONNECT and
// by SOCKS5; destinations in the mesh are not.
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
		before := gate.proxy.Stats()
		if got, err := a.get("http://beta/"); got != "beta" || err != nil {
			t.Errorf("%s: %q, %v", scheme, got, err)
		}
		if after := gate.proxy.Stats(); after.HTTP+after.SOCKS5 != before.HTTP+before.SOCKS5 {
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

// A proxy in the environment that is the node itself is none.
func TestOutboundProxyIsOurself(t *testing.T) {
	m := newMesh(t)
	a := m.add("alpha")
	var self atomic.Pointer[url.URL]
	a.start(withProxy, func(c *Config) {
		c.OutboundProxy = func(*url.URL) (*url.URL, error) { return self.Load(), nil }
	})
	self.Store(&url.URL{Scheme: "http", Host: a.Status().Proxies[0]})
	if got, err := a.outboundProxy(&url.URL{Scheme: "https", Host: "192.0.2.1"}); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
