package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ginnel/internal/share"
)

func withDNS(c *Config) { c.DNS = udp("127.0.0.1:0") }

// corpZone answers as the DNS server of a company.
func corpZone(w dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	r.Authoritative = true
	records := map[string][]string{
		"db.corp.example. A":      {"db.corp.example. 300 IN A 100.64.0.2"},
		"db.corp.example. AAAA":   {},
		"mail.corp.example. MX":   {"mail.corp.example. 300 IN MX 10 db.corp.example."},
		"mail.corp.example. A":    {},
		"mail.corp.example. AAAA": {},
		"big.corp.example. TXT": slices.Repeat([]string{`big.corp.example. 300 IN TXT "` + strings.Repeat("x",
			200) + `"`}, 15),
		"_db._tcp.corp.example. SRV": {"_db._tcp.corp.example. 300 IN SRV 1 2 5432 db.corp.example."},
	}
	question := q.Question[0]
	texts, known := records[strings.ToLower(question.Name)+" "+dns.TypeToString[question.Qtype]]
	if !known {
		r.Rcode = dns.RcodeNameError
	}
	for i, text := range texts {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if txt, ok := rr.(*dns.TXT); ok {
			txt.Txt[0] = fmt.Sprint(i, txt.Txt[0][2:])
		}
		r.Answer = append(r.Answer, rr)
	}
	if _, overTCP := w.RemoteAddr().(*net.TCPAddr); !overTCP {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		r.Truncate(size)
	}
	w.WriteMsg(r)
}

// serveZone serves corpZone in the mesh, over UDP and TCP.
func (n *member) serveZone(port uint16) {
	t := n.mesh.t
	t.Helper()
	pc, err := n.ListenPacket(netip.AddrPortFrom(n.addr, port))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := n.Listen(netip.AddrPortFrom(n.addr, port))
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: dns.HandlerFunc(corpZone)},
		{Listener: ln, Handler: dns.HandlerFunc(corpZone)}} {
		n.mesh.wg.Go(func() { srv.ActivateAndServe() })
		t.Cleanup(func() { srv.Shutdown() })
	}
}

// namesMesh starts two nodes. The first serves DNS on this machine and has a route to the server on
// the second for the domain of corpZone.
func namesMesh(t *testing.T) (a, b *member) {
	a, b = two(t, withDNS, func(c *Config) { c.MeshOnly = true })
	b.serveZone(53)
	m := a.netmap(false)
	m.Domain = "net.example"
	m.DNS = DNS{
		Routes: map[string][]Nameserver{"corp.example": {{Addr: netip.AddrPortFrom(b.addr, 54)},
			{Addr: netip.AddrPortFrom(b.addr, 53)}}},
		Records: map[string][]netip.Addr{"www.app.net.example": {b.addr, netip.MustParseAddr("fd7a:115c:a1e0::2")}},
	}
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return a.Status().State == StateRunning })
	return a, b
}

// question sends a query to the node, with EDNS unless size is 0.
func (n *member) question(network, name string, qtype, size uint16) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	if size != 0 {
		q.SetEdns0(size, false)
	}
	return n.exchange(network, q)
}

func (n *member) exchange(network string, q *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: 6 * time.Second, UDPSize: dns.MaxMsgSize}
	r, _, err := c.Exchange(q, n.Status().DNS)
	return r, err
}

// The server answers for names of the mesh, over UDP and TCP.
func TestDNSServer(t *testing.T) {
	a, _ := namesMesh(t)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string // the code, * if the answer is authoritative, and the records
	}{
		{"beta", dns.TypeA, "NOERROR* 100.64.0.2"},
		{"BETA.Net.Example", dns.TypeA, "NOERROR* 100.64.0.2"},
		{"alpha.net.example", dns.TypeA, "NOERROR* 100.64.0.1"},
		{"beta.net.example", dns.TypeAAAA, "NOERROR*"},
		{"beta.net.example", dns.TypeMX, "NOERROR*"},
		{"www.app.net.example", dns.TypeAAAA, "NOERROR* fd7a:115c:a1e0::2"},
		{"www.app.net.example", dns.TypeANY, "NOERROR* 100.64.0.2 fd7a:115c:a1e0::2"},
		{"app.net.example", dns.TypeA, "NOERROR*"},
		{"net.example", dns.TypeA, "NOERROR*"},
		{"nobody.net.example", dns.TypeA, "NXDOMAIN*"},
		{"nobody.net.example", dns.TypeTXT, "NXDOMAIN*"},
		{"2.0.64.100.in-addr.arpa", dns.TypePTR, "NOERROR* beta.net.example."},
		{"1.0.64.100.in-addr.arpa", dns.TypePTR, "NOERROR* alpha.net.example."},
		{"2.0.64.100.in-addr.arpa", dns.TypeTXT, "NOERROR*"},
		{"99.0.64.100.in-addr.arpa", dns.TypePTR, "NXDOMAIN*"},
		{"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", dns.TypePTR, "NXDOMAIN*"},
		{"db.corp.example", dns.TypeA, "NOERROR 100.64.0.2"},
		{"db.corp.example", dns.TypeAAAA, "NOERROR"},
		{"nothing.corp.example", dns.TypeA, "NXDOMAIN"},
		{"mail.corp.example", dns.TypeA, "NOERROR"},
		{"mail.corp.example", dns.TypeMX, "NOERROR db.corp.example."},
		{"_db._tcp.corp.example", dns.TypeSRV, "NOERROR db.corp.example.:5432"},
		{"localhost", dns.TypeA, "NOERROR 127.0.0.1"},
		{"localhost", dns.TypeMX, "NOERROR"},
		{"outside.example", dns.TypeA, "REFUSED"},
		{"outside.example", dns.TypeTXT, "REFUSED"},
		{"1.2.0.192.in-addr.arpa", dns.TypePTR, "REFUSED"},
		{"net.example", dns.TypeAXFR, "REFUSED"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r, err := a.question(network, c.name, c.qtype, 0)
			if err != nil {
				t.Errorf("%s %s over %s: %v", c.name, dns.TypeToString[c.qtype], network, err)
				continue
			}
			if got := summary(r); got != c.want || !r.RecursionAvailable || len(r.Extra) > 0 {
				t.Errorf("%s %s over %s: %q, want %q\n%v", c.name, dns.TypeToString[c.qtype], network, got, c.want, r)
			}
		}
	}
}

func summary(r *dns.Msg) string {
	text := dns.RcodeToString[r.Rcode]
	if r.Authoritative {
		text += "*"
	}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			text += " " + rr.A.String()
		case *dns.AAAA:
			text += " " + rr.AAAA.String()
		case *dns.PTR:
			text += " " + rr.Ptr
		case *dns.MX:
			text += " " + rr.Mx
		case *dns.SRV:
			text += fmt.Sprintf(" %s:%d", rr.Target, rr.Port)
		default:
			text += " " + rr.String()
		}
	}
	return text
}

// A response is as long as the client accepts, but no longer than dnsUDPSize over UDP. Over TCP it
// is whole.
func TestDNSTruncation(t *testing.T) {
	a, _ := namesMesh(t)
	for _, c := range []struct {
		network string
		size    uint16
		most    int
		whole   bool
	}{
		{"udp", 0, 512, false},
		{"udp", 100, 512, false},
		{"udp", 1000, 1000, false},
		{"udp", 65535, dnsUDPSize, false},
		{"tcp", 0, 65535, true},
	} {
		r, err := a.question(c.network, "big.corp.example", dns.TypeTXT, c.size)
		if err != nil {
			t.Fatal(err)
		}
		if r.Truncated == c.whole || r.Len() > c.most || (len(r.Answer) == 15) != c.whole {
			t.Errorf("%+v: truncated %v, %d bytes, %d records", c, r.Truncated, r.Len(), len(r.Answer))
		}
		if opt := r.IsEdns0(); (opt != nil) != (c.size != 0) || opt != nil && opt.UDPSize() != dnsUDPSize {
			t.Errorf("%+v: EDNS %v", c, opt)
		}
	}
}

// Queries that this server does not answer get the response code for their kind, and an extended
// error says why a name was not resolved.
func TestDNSRefusals(t *testing.T) {
	a, _ := namesMesh(t)
	chaos := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := new(dns.Msg).SetNotify("net.example.")
	update := new(dns.Msg).SetUpdate("net.example.")
	future := new(dns.Msg).SetQuestion("beta.", dns.TypeA)
	future.SetEdns0(1232, false)
	future.IsEdns0().SetVersion(1)
	two := new(dns.Msg).SetQuestion("beta.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	for _, c := range []struct {
		q    *dns.Msg
		want int
	}{
		{chaos, dns.RcodeRefused}, {notify, dns.RcodeNotImplemented}, {update, dns.RcodeNotImplemented},
		{future, dns.RcodeBadVers}, {two, dns.RcodeFormatError},
	} {
		if r, err := a.exchange("udp", c.q); err != nil || r.Rcode != c.want || len(r.Answer) > 0 {
			t.Errorf("%v\nwas answered by %v, %v, want %s", c.q, r, err, dns.RcodeToString[c.want])
		}
	}
	r, err := a.question("udp", "outside.example", dns.TypeA, 1232)
	if err != nil {
		t.Fatal(err)
	}
	if opt := r.IsEdns0(); opt == nil || len(opt.Option) != 1 ||
		!strings.Contains(opt.Option[0].String(), "--mesh-only is set") {
		t.Errorf("why a name was refused: %v", opt)
	}
	// A response to the server gets no answer; otherwise two servers could answer each other for
	// ever.
	answer := new(dns.Msg).SetQuestion("beta.", dns.TypeA)
	answer.Response = true
	c := dns.Client{Timeout: 300 * time.Millisecond}
	if r, _, err := c.Exchange(answer, a.Status().DNS); err == nil {
		t.Errorf("a response was answered by %v", r)
	}
}

// A client that waits for too many answers is answered from the map only, and other clients still
// have room.
func TestDNSQueryLimit(t *testing.T) {
	a, _ := namesMesh(t)
	m := *a.plane.netmap.Load()
	m.DNS.Routes = map[string][]Nameserver{"slow.example": {{Addr: netip.MustParseAddrPort("100.64.0.2:55")}}}
	pc, err := a.mesh.nodes[1].ListenPacket(netip.MustParseAddrPort("100.64.0.2:55")) // where nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", a.Status().DNS)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A few at a time, because the kernel drops datagrams of a burst.
	const most, few = dnsQuestions * 3 / 4, 20
	query, err := new(dns.Msg).SetQuestion("x.slow.example.", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for sent := few; refused < 2*few; sent += few {
		for range few {
			if _, err := c.Write(query); err != nil {
				t.Fatal(err)
			}
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		for b := make([]byte, 1500); ; refused++ {
			n, err := c.Read(b)
			if err != nil {
				break
			}
			r := new(dns.Msg)
			if err := r.Unpack(b[:n]); err != nil || r.Rcode != dns.RcodeServerFailure || sent <= most {
				t.Fatalf("after %d questions, of which %d may wait: %v, %v", sent, most, r, err)
			}
		}
		if sent > 4*most {
			t.Fatalf("%d questions wait, want at most %d", sent-refused, most)
		}
	}
	if r, err := a.question("udp", "beta", dns.TypeA, 0); err != nil || summary(r) != "NOERROR* 100.64.0.2" {
		t.Errorf("a name of the mesh meanwhile: %v, %v", r, err)
	}
}

// Of too many TCP connections the oldest is closed.
func TestDNSConnectionLimit(t *testing.T) {
	a, _ := namesMesh(t)
	var err error
	conns := make([]net.Conn, dnsConns+1)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", a.Status().DNS); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	conns[0].SetReadDeadline(time.Now().Add(time.Second))
	if _, err := conns[0].Read(make([]byte, 1)); err == nil || isTimeoutError(err) {
		t.Errorf("the oldest connection beyond the share: %v, want its end", err)
	}
	if r, err := a.question("tcp", "beta", dns.TypeA, 0); err != nil || summary(r) != "NOERROR* 100.64.0.2" {
		t.Errorf("a new connection meanwhile: %v, %v", r, err)
	}
}

func isTimeoutError(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// The server answers this machine and private networks only.
func TestDNSIsNoOpenResolver(t *testing.T) {
	for a, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.1.2.3": true, "192.168.0.9": true, "172.17.0.2": true, "fe80::1": true,
		"fd00::1": true, "::ffff:10.1.2.3": true,
		"8.8.8.8": false, "2001:db8::1": false, "100.64.0.1": false, "::ffff:8.8.8.8": false,
	} {
		if got := servesClient(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is served: %v, want %v", a, got, want)
		}
	}
}

// A connection too many closes the oldest one of the client that has most.
func TestDNSConnsAreShared(t *testing.T) {
	l := newDNSLimits()
	source := func(last byte) netip.Prefix { return share.SourceOf(netip.AddrFrom4([4]byte{10, 0, 0, last})) }
	var greedy []*dnsConn
	for i := range dnsConns {
		c, from := &dnsConn{limits: l}, source(byte(i))
		if i%2 == 0 {
			greedy, from = append(greedy, c), source(255)
		}
		if v := l.admit(c, from); v != nil {
			t.Fatal("a connection below the bound made another one go")
		}
	}
	if v := l.admit(&dnsConn{limits: l}, source(254)); v != greedy[0] {
		t.Errorf("one more connection than there may be: %v goes, want the oldest of the greediest", v)
	}
}

// A query that comes while the node joins waits for the map. The host's resolver is not asked
// before.
func TestDNSWhileJoining(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", withDNS)
	r, err := a.question("udp", "alpha.net.example", dns.TypeA, 0)
	if err != nil || summary(r) != "NOERROR* "+a.address4().String() {
		t.Errorf("%v, %v", r, err)
	}
	b := n.join("beta", withDNS, func(c *Config) { c.Control.AuthKey = "" })
	eventually(t, "beta waits", func() bool { return b.Status().State == StateNeedsLogin })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	q.SetEdns0(1232, false)
	c := dns.Client{Timeout: 8 * time.Second}
	r, _, err = c.ExchangeContext(ctx, q, b.Status().DNS)
	if err != nil || r.Rcode != dns.RcodeServerFailure ||
		!strings.Contains(r.IsEdns0().String(), "has not joined its network yet") {
		t.Errorf("a name before joining: %v, %v", r, err)
	}
}

// The host's resolver is not asked if it is this server.
func TestDNSOwnResolver(t *testing.T) {
	for _, c := range []struct {
		servers string
		own     string
		want    bool
	}{
		{"127.0.0.1", "127.0.0.1:53", true},
		{"192.0.2.1 127.0.0.1", "127.0.0.1:53", true},
		{"127.0.0.1", "[::]:53", true},
		{"::1", "[::1]:53", true},
		{"127.0.0.1", "127.0.0.1:5353", false},
		{"127.0.0.53", "127.0.0.1:53", false},
		{"192.0.2.1", "127.0.0.1:53", false},
	} {
		if got := leadsTo(strings.Fields(c.servers), netip.MustParseAddrPort(c.own)); got != c.want {
			t.Errorf("resolv.conf with %s leads to %s: %v, want %v", c.servers, c.own, got, c.want)
		}
	}
}
