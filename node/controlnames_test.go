package node

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ginnel/control"
	"ginnel/control/server"
)

// The map says which server resolves which names. Names of a split DNS domain go to its servers
// through the mesh; extra records are resolved without a server; unknown names of the mesh's domain
// are sent to no server.
func TestNamesOfTheMap(t *testing.T) {
	n := newNetwork(t, func(c *server.Config) {
		c.DNS = control.DNSConfig{
			Domains: []string{"corp.example"},
			Routes: map[string][]control.Resolver{
				"corp.example":     {{Addr: "100.64.0.1"}},
				"lab.corp.example": {{Addr: "100.64.0.1:5353"}},
				"nobody.example":   {},
			},
			ExtraRecords: []control.DNSRecord{{Name: "alias.example", Value: "100.64.0.1"},
				{Name: "text.example", Type: "TXT", Value: "x"}},
		}
	})
	b := n.join("beta")
	b.serveHTTP(80, "beta")
	eventually(t, "beta has joined", b.member.hasJoined)
	own := netip.MustParseAddr("100.64.0.1")
	for addr, names := range map[string]map[string][]netip.Addr{
		"100.64.0.1:53":   {"db.corp.example.": {own}},
		"100.64.0.1:5353": {"db.lab.corp.example.": {own}},
	} {
		pc, err := b.ListenPacket(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go dnsServer(pc, names)
	}
	a := n.join("alpha", func(c *Config) { c.MeshOnly = true })
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	for _, name := range []string{"beta", "Beta.", "beta.net.example", "BETA.NET.EXAMPLE.", "db.corp.example", "db",
		"db.lab.corp.example", "alias.example"} {
		if got, err := a.get("http://" + name + "/"); got != "beta" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"nobody.net.example", "x.nobody.example", "missing.corp.example"} {
		_, err := a.DialContext(t.Context(), "tcp", name+":80")
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
			t.Errorf("%s: %v, want no such name", name, err)
		}
	}
}

// If the environment names a proxy, the coordination server and the relays are reached through it.
func TestControlThroughProxy(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		n := newNetwork(t)
		gate := n.mesh.add("gate")
		gate.start(withProxy)
		proxy := &url.URL{Scheme: scheme, Host: gate.Status().Proxies[0]}
		a := n.join("alpha", func(c *Config) { c.OutboundProxy = func(*url.URL) (*url.URL, error) { return proxy, nil } })
		eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
		if s := gate.ingress.proxy.Stats(); s.HTTP+s.SOCKS5 < 2 {
			t.Errorf("%s: %d connections through the proxy, want those to the server and to the relay", scheme, s.HTTP+s.SOCKS5)
		}
	}
}

// A starting node sends nothing to a server that has another key than before.
func TestServerKeyChanges(t *testing.T) {
	first, second := newNetwork(t), newNetwork(t)
	var kept Identity
	a := first.join("alpha", func(c *Config) { c.Control.Save = func(id Identity) error { kept = id; return nil } })
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
	a.Close()
	kept.URL = second.url
	again := second.join("alpha", func(c *Config) { c.Control.Identity = kept })
	if err := again.Run(t.Context()); !errors.Is(err, ErrServerKeyChanged) || errors.Is(err, ErrJoinRefused) ||
		!strings.Contains(err.Error(), "server's key is") {
		t.Errorf("Run: %v", err)
	}
}

// A running node goes on with its map then, and reports the change.
func TestServerKeyChangesWhileRunning(t *testing.T) {
	first, second := newNetwork(t), newNetwork(t)
	front := newFront(t, first.url)
	a := first.join("alpha", func(c *Config) { c.Control.URL = front.url })
	b := first.join("beta")
	b.serveHTTP(80, "beta")
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	front.leadTo(second.url)
	var issue HealthIssue
	eventually(t, "alpha has noticed", func() bool { i := a.health("server-key-changed"); issue = i; return i.Code != "" })
	if !strings.Contains(issue.Text, first.srv.PublicKey().String()) || !strings.Contains(issue.Mend, "--server-key") {
		t.Errorf("alpha says %+v", issue)
	}
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	front.leadTo(first.url)
	eventually(t, "the first server is spoken with again",
		func() bool { return a.health("server-key-changed").Code == "" })
}

// health returns the health issue with a code; empty if there is none.
func (n *member) health(code string) HealthIssue {
	for _, h := range n.Status().Health {
		if h.Code == code {
			return h
		}
	}
	return HealthIssue{}
}

// front is an address that forwards to one server, and later to another.
type front struct {
	url     string
	running atomic.Int32 // directions of connections

	mu     sync.Mutex
	target string
	conns  []net.Conn
}

func newFront(t *testing.T, url string) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{url: "http://" + ln.Addr().String()}
	f.leadTo(url)
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); f.leadTo(""); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			far, err := net.Dial("tcp", f.target)
			if err != nil {
				near.Close()
			} else {
				f.conns = append(f.conns, near, far)
				f.running.Add(2)
				wg.Go(func() { io.Copy(far, near); far.Close(); f.running.Add(-1) })
				wg.Go(func() { io.Copy(near, far); near.Close(); f.running.Add(-1) })
			}
			f.mu.Unlock()
		}
	})
	return f
}

// open returns how many directions of connections have not ended.
func (f *front) open() int { return int(f.running.Load()) }

// leadTo closes the open connections, and forwards new ones to another address.
func (f *front) leadTo(url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = strings.TrimPrefix(url, "http://")
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}
