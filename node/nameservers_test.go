package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ginnel/control"
)

// serveDNS runs a DNS server on the member. count has the number of queries.
func (n *member) serveDNS(port uint16, names map[string][]netip.Addr) (count *atomic.Int32) {
	n.mesh.t.Helper()
	pc, err := n.ListenPacket(netip.AddrPortFrom(n.addr, port))
	if err != nil {
		n.mesh.t.Fatal(err)
	}
	count = new(atomic.Int32)
	n.mesh.t.Cleanup(func() { pc.Close() })
	go dnsServer(&countingConn{pc, count}, names)
	return count
}

type countingConn struct {
	net.PacketConn
	count *atomic.Int32
}

func (c *countingConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err == nil {
		c.count.Add(1)
	}
	return n, from, err
}

// The servers of a map are asked in their order: names that a resolves are found each time, names
// that a does not know do not exist, and b is not asked. A dead b costs nothing. The servers of a
// domain are asked in the same way.
func TestServersInOrder(t *testing.T) {
	m := newMesh(t)
	a, b, c := m.add("alpha"), m.add("beta"), m.add("gamma")
	dead := netip.MustParseAddr("100.64.0.77")
	for _, n := range []*member{b, c} {
		n.startReady()
	}
	a.startReady()
	private, public := make(map[string][]netip.Addr), make(map[string][]netip.Addr)
	for i := range 40 {
		private[fmt.Sprintf("db%d.example.", i)] = single4(i)
	}
	public["www.example."] = single4(99)
	b.serveDNS(53, private)
	others := c.serveDNS(53, public)
	b.serveDNS(5301, private)
	others2 := c.serveDNS(5302, public)
	set := func(d DNS) {
		t.Helper()
		nm := a.netmap(false)
		nm.DNS = d
		nm.Peers = append(nm.Peers, Peer{Name: "dead", Key: newPublicKey(), Addresses: single(dead), Region: region})
		if err := a.SetMap(nm); err != nil {
			t.Fatal(err)
		}
	}
	expectAll := func(limit time.Duration) {
		t.Helper()
		start := time.Now()
		for i := range 40 {
			if addrs, err := a.dialer.lookup(t.Context(), fmt.Sprintf("db%d.example", i)); err != nil ||
				!slices.Equal(addrs, single4(i)) {
				t.Errorf("db%d.example: %v, %v", i, addrs, err)
			}
		}
		if took := time.Since(start); took > limit {
			t.Errorf("40 names took %v", took)
		}
		_, err := a.dialer.lookup(t.Context(), "www.example")
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
			t.Errorf("www.example, which the first server does not know: %v", err)
		}
	}
	set(DNS{Servers: Nameservers(b.addr, c.addr)})
	expectAll(2 * time.Second)
	set(DNS{Servers: Nameservers(b.addr, dead)})
	expectAll(2 * time.Second)
	set(DNS{Routes: map[string][]Nameserver{"example": {{Addr: netip.AddrPortFrom(b.addr, 5301)},
		{Addr: netip.AddrPortFrom(c.addr, 5302)}}}})
	expectAll(2 * time.Second)
	if n := others.Load() + others2.Load(); n != 0 {
		t.Errorf("the second server was asked %d times", n)
	}
}

func single4(i int) []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})} }

// countHostQuestions counts the queries to the host's resolver until the test ends.
func countHostQuestions(t *testing.T) *atomic.Int32 {
	t.Helper()
	var asked atomic.Int32
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, syscall.ECONNREFUSED
	}}
	return &asked
}

// While the exit node is not there, nothing leaves by the host, not even a DNS query.
func TestExitLostAsksNobody(t *testing.T) {
	asked := countHostQuestions(t)
	a, _ := two(t)
	m := a.netmap(false)
	m.ExitLost = "the exit node is not there"
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	if addrs, err := a.dialer.lookup(t.Context(), "www.example.com"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v, %v; want a refusal", addrs, err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions to the host's resolver", n)
	}
}

// With an exit node, names are resolved by the map's servers and by the exit node. The map's
// fallback servers are asked if it has no others.
func TestServersWithExitNode(t *testing.T) {
	global, fallback := Nameservers(netip.MustParseAddr("192.0.2.1"))[0], Nameservers(netip.MustParseAddr("192.0.2.2"))[0]
	doh := Nameserver{URL: "https://dns.example/q"}
	gate := Nameserver{URL: "http://100.64.0.9:4711/dns-query"}
	answers := []control.Service{{Proto: "peerapi6", Port: 4712}, {Proto: "peerapi4", Port: 4711},
		{Proto: "peerapi-dns-proxy", Port: 1}}
	for _, c := range []struct {
		exit     string
		services []control.Service
		resolver string
		want     []Nameserver
	}{
		{"", nil, "", nil},
		{"", answers, "192.0.2.1", []Nameserver{global}},
		{"gate", nil, "", []Nameserver{fallback}},
		{"gate", answers[:2], "", []Nameserver{fallback}},
		{"gate", answers[2:], "", []Nameserver{fallback}},
		{"gate", answers, "", []Nameserver{gate, fallback}},
		{"gate", answers, "192.0.2.1", []Nameserver{global, gate}},
		{"gate", answers, "https://dns.example/q", []Nameserver{doh, gate}},
		{"gate", nil, "http://dns.example/q", []Nameserver{fallback}}, // in the clear
		{"gate", nil, "tls://192.0.2.1", []Nameserver{fallback}},
		{"gate", nil, "http://100.64.0.9:4711/dns-query", []Nameserver{gate}},
	} {
		dns := &control.DNSConfig{FallbackResolvers: []control.Resolver{{Addr: "192.0.2.2"}}}
		if c.resolver != "" {
			dns.Resolvers = []control.Resolver{{Addr: c.resolver}}
		}
		exit := &control.Node{
			Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.9/32")},
			Hostinfo:  &control.Hostinfo{Services: c.services},
		}
		mapper := &mapper{cfg: &Control{ExitNode: c.exit}}
		if got := mapper.dns(dns, exit).Servers; !slices.Equal(got, c.want) {
			t.Errorf("exit node %q with %v, resolver %q: %v, want %v", c.exit, c.services, c.resolver, got, c.want)
		}
	}
}

// With --mesh-only, a name that no server in the mesh can resolve is refused. Neither the host's
// resolver nor a server outside the mesh is asked.
func TestMeshOnlyAsksNobody(t *testing.T) {
	asked := countHostQuestions(t)
	outside, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	go dnsServer(&countingConn{outside, asked}, nil)
	a, b := two(t, func(c *Config) { c.MeshOnly = true })
	b.serveDNS(53, map[string][]netip.Addr{"db.corp.example.": {b.addr}})
	for _, mesh := range []bool{false, true} {
		m := a.netmap(false)
		m.Mesh = mesh
		m.DNS = DNS{
			Search: []string{"corp.example"},
			Routes: map[string][]Nameserver{
				"out.example":  {{Addr: outside.LocalAddr().(*net.UDPAddr).AddrPort()}},
				"corp.example": Nameservers(b.addr),
			},
		}
		if err := a.SetMap(m); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"www.example.com", "www.example.com.", "x.out.example", "beta.local", "printer.local"} {
			if addrs, err := a.dialer.lookup(t.Context(), name); !errors.Is(err, fs.ErrPermission) ||
				!strings.Contains(err.Error(), "--mesh-only") {
				t.Errorf("%s: %v, %v; want a refusal that names --mesh-only", name, addrs, err)
			}
		}
		for _, name := range []string{"db", "db.corp.example", "beta"} { // search domains go on after a refusal
			if addrs, err := a.dialer.lookup(t.Context(), name); err != nil || !slices.Equal(addrs, []netip.Addr{b.addr}) {
				t.Errorf("%s: %v, %v", name, addrs, err)
			}
		}
		if addrs, err := a.dialer.lookup(t.Context(), "app.localhost"); err != nil || !addrs[0].IsLoopback() {
			t.Errorf("app.localhost: %v, %v", addrs, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions left the mesh", n)
	}
}

// Addresses are sorted as RFC 6724 says, those of a family in which this node has an address first.
func TestPreferred(t *testing.T) {
	a, _ := two(t, func(c *Config) {
		c.Map.Peers[0].Addresses = append(c.Map.Peers[0].Addresses, prefixes("2001:db8::/32")...)
	})
	parse := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	check := func(want []netip.Addr, of ...string) {
		t.Helper()
		if got := a.dialer.preferred(parse(of...)); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", of, got, want)
		}
	}
	// no IPv6 of its own
	check(parse("100.64.0.2", "100.64.0.3", "2001:db8::2"), "2001:db8::2", "100.64.0.2", "100.64.0.3")
	check(parse("2001:db8::2", "2001:db8::1"), "2001:db8::2", "2001:db8::1")
	m := a.netmap(false)
	m.Addresses = append(m.Addresses, prefixes("2001:db8::1/128", "fd7a:115c:a1e0::1/128")...)
	m.Peers[0].Addresses = append(m.Peers[0].Addresses, prefixes("2001:db8::/32")...)
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	check(parse("2001:db8::2", "100.64.0.2", "fd7a:115c:a1e0::2"), "fd7a:115c:a1e0::2", "100.64.0.2", "2001:db8::2")
}
