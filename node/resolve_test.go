package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ginnel/proxy"
)

// dnsServer answers from a table of names, in lower case with a dot at the end.
func dnsServer(pc net.PacketConn, names map[string][]netip.Addr) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply := answer(buf[:n], names); reply != nil {
			pc.WriteTo(reply, from)
		}
	}
}

func answer(query []byte, names map[string][]netip.Addr) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	addrs, known := names[strings.ToLower(q.Name.String())]
	rh := dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true}
	if !known {
		rh.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, rh)
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			b.AResource(head, dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			b.AAAAResource(head, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	reply, err := b.Finish()
	if err != nil {
		return nil
	}
	return reply
}

// Names are resolved by the map's DNS servers, through the mesh, with the search list of
// resolv.conf(5).
func TestNamesOverTheMesh(t *testing.T) {
	a, b := two(t)
	b.serveHTTP(80, "found")
	pc, err := b.ListenPacket(netip.MustParseAddrPort("100.64.0.2:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go dnsServer(pc, map[string][]netip.Addr{
		"db.corp.example.": {b.addr},
		"two.example.":     {netip.MustParseAddr("100.64.0.99"), b.addr},
		"outside.example.": {netip.MustParseAddr("127.0.0.1")},
	})
	m := a.netmap(false)
	m.DNS = DNS{Servers: Nameservers(b.addr), Search: []string{"nowhere.example", "corp.example."}}
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db.corp.example", "DB.corp.example.", "db", "two.example"} {
		if got, err := a.get("http://" + name + "/"); got != "found" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	_, err = a.DialContext(t.Context(), "tcp", "missing.example:80")
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound || !strings.Contains(err.Error(), "100.64.0.2") ||
		strings.Contains(err.Error(), "127.0.0.53") {
		t.Errorf("an unknown name: %v, want not found by the server that was asked", err)
	}
	if addrs, err := a.dialer.lookup(t.Context(), "localhost"); err != nil || !addrs[0].IsLoopback() {
		t.Errorf("localhost: %v, %v", addrs, err)
	}
	// A silent server is an error within the time limit.
	pc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.DialContext(ctx, "tcp", "db.corp.example:80"); err == nil {
		t.Error("a name was resolved by nobody")
	}
}

// A corked datagram whose name is resolved through the mesh does not hold back its own DNS query.
func TestNameOfACorkedDatagram(t *testing.T) {
	a, b := two(t)
	pc, err := b.ListenPacket(netip.MustParseAddrPort("100.64.0.2:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go dnsServer(pc, map[string][]netip.Addr{"db.example.": {b.addr}})
	m := a.netmap(false)
	m.DNS = DNS{Servers: Nameservers(b.addr)}
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	c, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sink, err := b.ListenPacket(netip.MustParseAddrPort("100.64.0.2:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	d := c.(*datagramConn)
	d.Cork()
	for _, dst := range []*proxy.Addr{{IP: b.addr, Port: 7}, {Name: "db.example", Port: 7}} {
		if _, err := d.WriteTo([]byte("x"), dst); err != nil {
			t.Errorf("to %v: %v", dst, err)
		}
	}
	d.Uncork()
	sink.SetReadDeadline(time.Now().Add(5 * time.Second))
	for range 2 {
		if _, _, err := sink.ReadFrom(make([]byte, 9)); err != nil {
			t.Error(err)
		}
	}
}

func TestSearchList(t *testing.T) {
	search := []string{"a.example", "b.example."}
	for name, want := range map[string][]string{
		"db":    {"db.a.example.", "db.b.example.", "db."},
		"db.x":  {"db.x.", "db.x.a.example.", "db.x.b.example."},
		"db.x.": {"db.x."},
		"db.":   {"db."},
	} {
		if got := searchList(name, search); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	peers := []Peer{
		{Name: "everything", Addresses: prefixes("0.0.0.0/0", "::/0")},
		{Name: "office", Addresses: prefixes("10.0.0.0/8")},
		{Name: "lab", Addresses: prefixes("10.1.0.0/16", "fd00::/8")},
		{Name: "Host.example.", Addresses: prefixes("10.1.2.3/32", "fd00::3/128")},
	}
	r := newRoutes(&NetworkMap{Addresses: prefixes("10.9.0.2/24"), Peers: peers})
	for addr, want := range map[string]string{
		"192.0.2.1": "everything", "2001:db8::1": "everything", "10.2.0.1": "office", "10.1.9.9": "lab", "fd00::9": "lab",
		"10.1.2.3": "Host.example.", "fd00::3": "Host.example.",
	} {
		if p := r.peer(netip.MustParseAddr(addr)); p == nil || p.Name != want {
			t.Errorf("%s goes to %v, want %s", addr, p, want)
		}
	}
	if got := r.names["host.example"].addrs; len(got) != 2 {
		t.Errorf("names %v", r.names)
	}
	r = newRoutes(&NetworkMap{Addresses: prefixes("10.9.0.2/24"), Peers: peers[1:2]})
	for addr, want := range map[string]bool{
		"100.64.0.1": true, "100.115.92.5": false, "100.128.0.1": false, "fd7a:115c:a1e0::1": true, "fd7b::1": false,
		"10.9.0.77": true, "10.1.1.1": true, "192.0.2.1": false, "127.0.0.1": false, "::1": false, "169.254.1.1": false,
		"224.0.0.1": false, "0.0.0.0": false,
	} {
		if got := r.inMesh(netip.MustParseAddr(addr)); got != want {
			t.Errorf("inMesh(%s) = %v, want %v", addr, got, want)
		}
	}
	// A default route does not lead to this machine. It does lead to special addresses, which must
	// not be dialled on the host's network then: at 169.254.169.254, a cloud provider serves
	// secrets.
	r = newRoutes(&NetworkMap{Addresses: prefixes("10.9.0.2/24"), Peers: peers[:1]})
	for addr, want := range map[string]bool{
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false,
		"192.0.2.1": true, "169.254.169.254": true, "224.0.0.1": true, "fe80::1": true, "ff02::1": true,
	} {
		if got := r.inMesh(netip.MustParseAddr(addr)); got != want {
			t.Errorf("with 0.0.0.0/0 and ::/0: inMesh(%s) = %v, want %v", addr, got, want)
		}
	}
	if !r.isOwn(netip.MustParseAddr("10.9.0.2")) || r.isOwn(netip.MustParseAddr("10.9.0.3")) {
		t.Error("own addresses are wrong")
	}
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// A dead address of a name costs a head start, not the connection.
func TestRace(t *testing.T) {
	a, b := two(t)
	b.serveHTTP(80, "")
	dead := netip.MustParseAddr("100.64.0.200")
	m := a.netmap(false)
	m.Peers = append(m.Peers, Peer{Name: "dead", Key: newPublicKey(), Addresses: single(dead), Region: region})
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c, err := a.dialer.race(t.Context(), "tcp", []netip.Addr{dead, b.addr}, 80)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if took := time.Since(start); took < raceDelay/2 || took > 10*raceDelay {
		t.Errorf("took %v, want about %v", took, raceDelay)
	}
	nowhere := netip.MustParseAddr("100.64.0.201")
	start = time.Now()
	c, err = a.dialer.race(t.Context(), "tcp", []netip.Addr{nowhere, b.addr}, 80)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if took := time.Since(start); took > raceDelay {
		t.Errorf("an address that failed at once held up the next for %v", took)
	}
	if _, err := a.dialer.race(t.Context(), "tcp", []netip.Addr{nowhere, netip.MustParseAddr("100.64.0.202")},
		80); err == nil || !strings.Contains(err.Error(), "201") {
		t.Errorf("got %v, want the first error", err)
	}
}

// The same holds if the working address, or the dead one, is behind a router or on the host's
// network.
func TestRaceEverywhere(t *testing.T) {
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady()
	b.serveHTTP(80, "")
	host := netip.MustParseAddr("192.0.2.1")
	a.start(func(c *Config) {
		c.DialHost = func(ctx context.Context, _, addr string) (net.Conn, error) {
			if addr != host.String()+":80" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			near, far := net.Pipe()
			far.Close()
			return near, nil
		}
	})
	nm := a.netmap(false)
	nm.Addresses = append(nm.Addresses, prefixes("fd7a:115c:a1e0::1/128")...)
	nm.Peers[0].Addresses = append(nm.Peers[0].Addresses, prefixes("2001:db8:7::/48", "198.51.100.0/24")...)
	nm.DNS.Records = map[string][]netip.Addr{
		"host.example":   {netip.MustParseAddr("2001:db8:9::1"), host},
		"router.example": {netip.MustParseAddr("2001:db8:7::1"), host}, // the router carries nothing
		"mesh.example":   {netip.MustParseAddr("198.51.100.1"), b.addr},
		"mixed.example":  {netip.MustParseAddr("2001:db8:9::1"), b.addr},
	}
	if err := a.SetMap(nm); err != nil {
		t.Fatal(err)
	}
	for name := range nm.DNS.Records {
		start := time.Now()
		c, err := a.DialContext(t.Context(), "tcp", name+":80")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
		if took := time.Since(start); took > 4*raceDelay {
			t.Errorf("%s: took %v, want at most about %v", name, took, raceDelay)
		}
	}
}

// A datagram cannot be raced: it is sent to a family in which this node has an address.
func TestDatagramToAnotherFamily(t *testing.T) {
	a, b := two(t)
	m := a.netmap(false)
	m.Peers[0].Addresses = append(prefixes("fd7a:115c:a1e0::2/128"), m.Peers[0].Addresses...)
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	sink, err := b.ListenPacket(netip.AddrPortFrom(b.addr, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	heard := func(what string) {
		t.Helper()
		sink.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, _, err := sink.ReadFrom(make([]byte, 9)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	pc, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err := pc.WriteTo([]byte("x"), &proxy.Addr{Name: "beta", Port: 7}); err != nil {
		t.Error(err)
	}
	heard("an association")
	c, err := a.DialContext(t.Context(), "udp", "beta:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	heard("a connected socket")
}

func TestInterleave(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	got := interleave(addrs("::1", "::2", "::3", "10.0.0.1", "10.0.0.2"))
	if want := addrs("::1", "10.0.0.1", "::2", "10.0.0.2", "::3"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
