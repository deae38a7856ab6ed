package resolver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var (
	first  = netip.MustParseAddrPort("192.0.2.1:53")
	second = netip.MustParseAddrPort("192.0.2.2:53")
	both   = []Server{{Addr: first}, {Addr: second}}

	four = netip.MustParseAddr("10.0.0.1")
	six  = netip.MustParseAddr("2001:db8::1")
)

type message = dnsmessage.Message

// reply returns the answers to a query; there may be none.
type reply func(network string, query dnsmessage.Message) []dnsmessage.Message

// internet simulates servers, and counts the dials and the questions.
type internet struct {
	servers map[netip.AddrPort]reply

	mu    sync.Mutex
	dials map[netip.AddrPort]int
	asked map[netip.AddrPort][]dnsmessage.Type
}

func newInternet(servers map[netip.AddrPort]reply) *internet {
	return &internet{servers: servers, dials: make(map[netip.AddrPort]int),
		asked: make(map[netip.AddrPort][]dnsmessage.Type)}
}

// dial is a Resolver.Dial. A pipe preserves the bounds of datagrams as long as they fit into the
// reader's buffer.
func (i *internet) dial(_ context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dials[server]++
	answer, ok := i.servers[server]
	if !ok {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	go i.serve(network, server, far, answer)
	return near, nil
}

func (i *internet) serve(network string, server netip.AddrPort, c net.Conn, answer reply) {
	defer c.Close()
	for {
		b := make([]byte, 2048)
		var n int
		var err error
		if network == "tcp" {
			b, err = readMessage(c)
			n = len(b)
		} else {
			n, err = c.Read(b)
		}
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if query.Unpack(b[:n]) != nil {
			return
		}
		i.mu.Lock()
		i.asked[server] = append(i.asked[server], query.Questions[0].Type)
		i.mu.Unlock()
		for _, m := range answer(network, query) {
			out, err := m.Pack()
			if err != nil {
				panic(err)
			}
			if network == "tcp" {
				out = append([]byte{byte(len(out) >> 8), byte(len(out))}, out...)
			}
			go c.Write(out) // the client may still be writing
		}
	}
}

// knows answers with the addresses of names. Other names do not exist.
func knows(names map[string][]netip.Addr) reply {
	return func(_ string, query dnsmessage.Message) []dnsmessage.Message {
		m := respond(query, dnsmessage.RCodeSuccess)
		addrs, ok := names[strings.TrimSuffix(query.Questions[0].Name.String(), ".")]
		if !ok {
			m.RCode = dnsmessage.RCodeNameError
		}
		m.Answers = records(query.Questions[0], addrs)
		return []dnsmessage.Message{m}
	}
}

func respond(query dnsmessage.Message, code dnsmessage.RCode) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true, RCode: code},
		Questions: query.Questions,
	}
}

func records(q dnsmessage.Question, addrs []netip.Addr) (out []dnsmessage.Resource) {
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return out
}

func says(code dnsmessage.RCode) reply {
	return func(_ string, query dnsmessage.Message) []dnsmessage.Message {
		return []dnsmessage.Message{respond(query, code)}
	}
}

func silent(string, dnsmessage.Message) []dnsmessage.Message { return nil }

// look looks up a name, and returns the result and how long that took.
func look(t *testing.T, r *Resolver, name string, servers ...Server) ([]netip.Addr, *net.DNSError, time.Duration) {
	t.Helper()
	start := time.Now()
	addrs, err := r.LookupNetIP(t.Context(), name, servers)
	took := time.Since(start)
	dns, ok := errors.AsType[*net.DNSError](err)
	if err != nil && !ok {
		t.Fatalf("%s: %v is not a *net.DNSError", name, err)
	}
	return addrs, dns, took
}

// "If there are multiple servers, the resolver library queries them in the order listed"
// (resolv.conf(5)). If the first answers, the second is not asked.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newInternet(map[netip.AddrPort]reply{
			first: knows(map[string][]netip.Addr{"private.example": {four, six}, "nothing.example": nil}),
			second: knows(map[string][]netip.Addr{
				"private.example": {netip.MustParseAddr("10.9.9.9")}, "public.example": {four},
			}),
		})
		r := &Resolver{Dial: net.dial}
		for range 40 {
			if addrs, err, _ := look(t, r, "private.example", both...); !slices.Equal(addrs, []netip.Addr{six, four}) {
				t.Fatalf("got %v, %v; want the addresses of the first server", addrs, err)
			}
		}
		for _, name := range []string{"public.example", "nothing.example"} {
			if _, err, _ := look(t, r, name, both...); err == nil || !err.IsNotFound || err.Server != first.String() {
				t.Errorf("%s: %v, want that the first server knows no address", name, err)
			}
		}
		if n := net.dials[second]; n != 0 {
			t.Errorf("the second server was dialled %d times", n)
		}
		if got := net.dials[first]; got != 42 {
			t.Errorf("%d dials for 42 names; want one for both questions of a name", got)
		}
		if got := len(net.asked[first]); got != 2*42 {
			t.Errorf("%d questions for 42 names", got)
		}
	})
}

// If a server fails, the next one is asked at once, but only the questions that are not decided.
func TestNextServer(t *testing.T) {
	no6 := func(network string, query dnsmessage.Message) []dnsmessage.Message {
		if query.Questions[0].Type == dnsmessage.TypeAAAA {
			return says(dnsmessage.RCodeServerFailure)(network, query)
		}
		return knows(map[string][]netip.Addr{"db.example": nil})(network, query)
	}
	lame := func(_ string, query dnsmessage.Message) []dnsmessage.Message {
		m := respond(query, dnsmessage.RCodeSuccess)
		m.RecursionAvailable = false
		return []dnsmessage.Message{m}
	}
	for what, c := range map[string]struct {
		server reply
		want   []netip.Addr
		asked  int // of the second
	}{
		"fails":        {says(dnsmessage.RCodeServerFailure), []netip.Addr{six, four}, 2},
		"refuses":      {says(dnsmessage.RCodeRefused), []netip.Addr{six, four}, 2},
		"is lame":      {lame, []netip.Addr{six, four}, 2},
		"is not there": {nil, []netip.Addr{six, four}, 2},
		"has no AAAA":  {no6, []netip.Addr{six}, 1}, // its answer to A counts
	} {
		synctest.Test(t, func(t *testing.T) {
			net := newInternet(map[netip.AddrPort]reply{second: knows(map[string][]netip.Addr{"db.example": {four, six}})})
			if c.server != nil {
				net.servers[first] = c.server
			}
			addrs, err, took := look(t, &Resolver{Dial: net.dial}, "db.example", both...)
			if !slices.Equal(addrs, c.want) || took != 0 {
				t.Errorf("the first %s: %v, %v after %v; want %v at once", what, addrs, err, took, c.want)
			}
			if got := len(net.asked[second]); got != c.asked {
				t.Errorf("the first %s: %d questions to the second, want %d", what, got, c.asked)
			}
		})
	}
}

// A server that is down costs Timeout once, and probeTimeout once per outageTime. When it is up
// again it is asked first again.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := netip.MustParseAddr("10.0.0.2")
		net := newInternet(map[netip.AddrPort]reply{
			first: silent, second: knows(map[string][]netip.Addr{"db.example": {other}}),
		})
		r := &Resolver{Dial: net.dial}
		want := func(addr netip.Addr, limit time.Duration) {
			t.Helper()
			if addrs, err, took := look(t, r, "db.example", both...); !slices.Equal(addrs, []netip.Addr{addr}) || took != limit {
				t.Errorf("%v, %v after %v; want %v after %v", addrs, err, took, addr, limit)
			}
		}
		var wg sync.WaitGroup
		for i := range 10 { // at about the same time
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 200 * time.Millisecond)
				if _, _, took := look(t, r, "db.example", both...); took > Timeout {
					t.Errorf("a lookup took %v", took)
				}
			})
		}
		wg.Wait()
		for range 40 {
			want(other, 0)
		}
		if got := len(net.asked[first]); got > 10*6 {
			t.Errorf("%d questions to a server that is down", got)
		}
		time.Sleep(outageTime)
		want(other, probeTimeout)
		want(other, 0)
		time.Sleep(outageTime)
		net.mu.Lock()
		net.servers[first] = knows(map[string][]netip.Addr{"db.example": {four}})
		net.mu.Unlock()
		want(four, 0)
		want(four, 0)
	})
}

// A lost datagram is sent again to the same server, because the next one may know other names.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[dnsmessage.Type]int)
		lossy := func(network string, query dnsmessage.Message) []dnsmessage.Message {
			if seen[query.Questions[0].Type]++; seen[query.Questions[0].Type] <= 2 {
				return nil
			}
			return knows(map[string][]netip.Addr{"db.example": {four, six}})(network, query)
		}
		net := newInternet(map[netip.AddrPort]reply{first: lossy, second: says(dnsmessage.RCodeNameError)})
		addrs, err, took := look(t, &Resolver{Dial: net.dial}, "db.example", both...)
		if len(addrs) != 2 || took != 3*firstRetry {
			t.Errorf("%v, %v after %v", addrs, err, took)
		}
	})
}

// If only one family is answered, its addresses are returned after resolutionDelay.
func TestOneFamilySilent(t *testing.T) {
	for _, deaf := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		synctest.Test(t, func(t *testing.T) {
			net := newInternet(map[netip.AddrPort]reply{first: func(network string, query message) []message {
				if query.Questions[0].Type == deaf {
					return nil
				}
				return knows(map[string][]netip.Addr{"db.example": {four, six}})(network, query)
			}})
			addrs, err, took := look(t, &Resolver{Dial: net.dial}, "db.example", both...)
			if len(addrs) != 1 || took != resolutionDelay {
				t.Errorf("no answer about %v: %v, %v after %v", deaf, addrs, err, took)
			}
		})
	}
}

// If no server answers, the lookup ends in bounded time with an error that names each server. It
// also ends when the caller's context does.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Resolver{Dial: newInternet(map[netip.AddrPort]reply{first: silent, second: silent}).dial}
		for range 2 { // before and after they are known to be down
			_, err, took := look(t, r, "db.example", both...)
			if err == nil || !err.IsTimeout || err.IsNotFound || !strings.Contains(err.Error(), "192.0.2.1:53") ||
				!strings.Contains(err.Error(), "192.0.2.2:53") || took != 2*Timeout {
				t.Errorf("%v after %v", err, took)
			}
		}
		r = &Resolver{Dial: r.Dial}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.LookupNetIP(ctx, "db.example", both)
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || time.Since(start) != time.Second {
			t.Errorf("with a timeout of a second: %v after %v", err, time.Since(start))
		}
		if order := r.outages.attempts(both, time.Now()); order[0] != (attempt{both[0], Timeout}) {
			t.Errorf("a server that had less than Timeout to answer counts as down: %v", order)
		}
		gone, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		if _, err := r.LookupNetIP(gone, "db.example", both); !errors.Is(err, context.Canceled) {
			t.Errorf("after cancelling: %v", err)
		}
		if _, err := r.LookupNetIP(t.Context(), "db.example", nil); err == nil {
			t.Error("resolved without a server")
		}
	})
}

// A message counts as an answer only if it is a response with the ID and the question of the query.
func TestForgeries(t *testing.T) {
	evil := netip.MustParseAddr("10.6.6.6")
	for what, forge := range map[string]func(*dnsmessage.Message){
		"another ID":    func(m *dnsmessage.Message) { m.ID ^= 0x100 },
		"a query":       func(m *dnsmessage.Message) { m.Response = false },
		"another name":  func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("evil.example.") },
		"another type":  func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX },
		"another class": func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS },
		"no question":   func(m *dnsmessage.Message) { m.Questions = nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			net := newInternet(map[netip.AddrPort]reply{first: func(_ string, query message) []message {
				forged := respond(query, dnsmessage.RCodeSuccess)
				forged.Answers = records(query.Questions[0], []netip.Addr{evil, netip.MustParseAddr("2001:db8::666")})
				forged.Questions = slices.Clone(forged.Questions)
				forge(&forged)
				return []dnsmessage.Message{forged}
			}})
			if addrs, err, took := look(t, &Resolver{Dial: net.dial}, "db.example", both[0]); err == nil || took != Timeout {
				t.Errorf("%s: %v, %v after %v; want that it is ignored", what, addrs, err, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // names are compared case-insensitively
		net := newInternet(map[netip.AddrPort]reply{first: func(network string, query message) []message {
			m := knows(map[string][]netip.Addr{"DB.example": {four, six}})(network, query)
			m[0].Questions = []dnsmessage.Question{query.Questions[0]}
			m[0].Questions[0].Name = dnsmessage.MustNewName("db.EXAMPLE.")
			return m
		}})
		if addrs, err, _ := look(t, &Resolver{Dial: net.dial}, "DB.example.", both[0]); len(addrs) != 2 {
			t.Errorf("in another case: %v, %v", addrs, err)
		}
	})
}

// Truncated answers are asked for over TCP, on one connection.
func TestTruncation(t *testing.T) {
	many := make([]netip.Addr, 0, 400)
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	short := func(network string, query dnsmessage.Message) []dnsmessage.Message {
		m := knows(map[string][]netip.Addr{"db.example": many})(network, query)
		if network == "udp" {
			m[0].Truncated, m[0].Answers = true, nil
		}
		return m
	}
	synctest.Test(t, func(t *testing.T) {
		net := newInternet(map[netip.AddrPort]reply{first: short})
		addrs, err, _ := look(t, &Resolver{Dial: net.dial}, "db.example", both...)
		if !slices.Equal(addrs, many) {
			t.Errorf("%d addresses, %v", len(addrs), err)
		}
		if net.dials[first] != 2 || net.dials[second] != 0 {
			t.Errorf("dials: %v", net.dials)
		}
	})
	// If a server does not answer by TCP the next one is asked, but it does not count as down.
	synctest.Test(t, func(t *testing.T) {
		net := newInternet(map[netip.AddrPort]reply{
			first: func(network string, query dnsmessage.Message) []dnsmessage.Message {
				if network == "tcp" {
					return nil
				}
				return short(network, query)
			},
			second: knows(map[string][]netip.Addr{"db.example": {four}}),
		})
		r := &Resolver{Dial: net.dial}
		if addrs, err, _ := look(t, r, "db.example", both...); !slices.Equal(addrs, []netip.Addr{four}) {
			t.Errorf("%v, %v", addrs, err)
		}
		if order := r.outages.attempts(both, time.Now()); order[0].server != both[0] {
			t.Error("a server that answers by UDP counts as down")
		}
	})
}

// A server that does not understand EDNS is asked again without it.
func TestWithoutEDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newInternet(map[netip.AddrPort]reply{first: func(network string, query message) []message {
			if len(query.Additionals) > 0 {
				m := respond(query, dnsmessage.RCodeFormatError)
				m.Questions = nil
				return []dnsmessage.Message{m}
			}
			return knows(map[string][]netip.Addr{"db.example": {four, six}})(network, query)
		}})
		if addrs, err, _ := look(t, &Resolver{Dial: net.dial}, "db.example", both...); len(addrs) != 2 {
			t.Errorf("%v, %v", addrs, err)
		}
	})
}

// No server is asked about an invalid name.
func TestInvalidNames(t *testing.T) {
	r := &Resolver{Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		t.Error("a server was asked")
		return nil, io.EOF
	}}
	for _, name := range []string{
		"", ".", "a..b", ".a", strings.Repeat("x", 64) + ".example", strings.Repeat("x.", 127) + "x",
		"a b.example", "b\u00fccher.example", "a\x00.example",
	} {
		if _, err, _ := look(t, r, name, both...); err == nil || !err.IsNotFound {
			t.Errorf("%q: %v, want no such name", name, err)
		}
	}
}

// Any message is parsed without a panic, and an answer settles its question.
func FuzzAnswer(f *testing.F) {
	l, err := newLookup("db.example")
	if err != nil {
		f.Fatal(err)
	}
	query := dnsmessage.Message{Questions: []dnsmessage.Question{l.questions[1].Question}}
	whole, err := knows(map[string][]netip.Addr{"db.example": {four, four}})("udp", query)[0].Pack()
	if err != nil {
		f.Fatal(err)
	}
	for n := range len(whole) + 1 {
		f.Add(whole[:n])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		q := question{Question: l.questions[1].Question}
		p, h, ok := q.parse(msg)
		if !ok {
			return
		}
		q.settle(msg, &p, h)
		if q.state == open {
			t.Error("an answer leaves its question open")
		}
		if len(q.addrs) > 0 && len(msg) < 15*len(q.addrs) || q.state == failed && q.addrs != nil {
			t.Errorf("%v from %d bytes", q.addrs, len(msg))
		}
	})
}
