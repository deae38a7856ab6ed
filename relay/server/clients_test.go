package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/share"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// A full relay ends the oldest connection of an address that has more connections than the new
// client's, and refuses a client whose address has as many as any other. Mesh peers are never
// displaced.
func TestClientsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		r := startMemRelay(t, Config{MaxClients: 5, MeshKey: testMeshKey,
			Log: slog.New(slog.NewTextHandler(&logged, nil))})
		from := func(a string) { r.Net.SetClient(netip.MustParseAddr(a)) }
		refused := func(who string) {
			t.Helper()
			resp := r.Get("GET", "/derp", http.Header{"Upgrade": {"DERP"}, "Connection": {"Upgrade"}})
			if resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s got %s, want 503", who, resp.Status)
			}
		}
		from("198.51.100.7")
		mesh := r.MeshClient()
		var greedy []*rawpeer.Peer
		for range 4 {
			greedy = append(greedy, r.Client())
		}
		refused("the greedy address")
		from("192.0.2.1")
		modest := []*rawpeer.Peer{r.Client(), r.Client()} // 4, 0: then 3, 1: then 2, 2
		refused("an address with as many as the greedy one")
		from("2001:db8::1")
		other := r.Client()
		synctest.Wait()
		for _, p := range greedy[:3] {
			p.WantClosed()
		}
		for _, p := range append(modest, mesh, greedy[3], other) {
			p.Ping()
		}
		r.wantMetric(t, "ginnel_relay_displaced_connections_total", 3)
		r.wantMetric(t, "ginnel_relay_connections", 5)
		if n := strings.Count(logged.String(), `msg="relay full"`); n == 0 {
			t.Error("nothing is logged")
		}
		for _, p := range append(modest, mesh, greedy[3], other) {
			p.Conn.Close()
		}
		synctest.Wait()
		if n := r.countConns(); n != 0 || len(r.memory.parts) != 0 {
			t.Errorf("%d connections and the memory of %d addresses are left", n, len(r.memory.parts))
		}
	})
}

// addressed is a connection of which only the remote address is used.
type addressed struct {
	net.Conn
	remote string
}

func (a addressed) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a.remote))
}

// An address that connects as fast as it can leaves room for other addresses, and alone it gets the
// whole rate.
func TestAcceptsAreShared(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		burst int
	}{{10, 0}, {10, 20}, {200, 50}} {
		l := newAcceptLimit(&Config{AcceptRate: c.rate, AcceptBurst: c.burst})
		const seconds = 20
		flood, honest, asked := 0, 0, 0
		for i := range seconds * 1000 {
			now := time.Unix(1000, 0).Add(time.Duration(i) * time.Millisecond)
			for range 3 {
				if l.allow(now, addressed{remote: "198.51.100.7:1"}) {
					flood++
				}
			}
			if i%2000 == 1999 { // one of another address every two seconds
				asked++
				if l.allow(now, addressed{remote: fmt.Sprintf("192.0.2.%d:1", i/2000)}) {
					honest++
				}
			}
		}
		most := c.rate*seconds + 2*float64(max(c.burst, 1))
		if honest != asked || float64(flood+honest) > most || float64(flood) < 0.9*(c.rate*seconds) {
			t.Errorf("%+v: %d of the flood, %d of %d others accepted; want all of the others, %v at most", c, flood,
				honest, asked, most)
		}
	}
}

// The clients of one address cannot fill all queue memory.
func TestQueueMemoryIsShared(t *testing.T) {
	const limit, piece = 1 << 20, 2 << 10
	m := newQueueMemory(limit)
	take := func(b *derp.Budget) (n int64) {
		for b.Take(piece) {
			n += piece
		}
		return n
	}
	source := func(i int) netip.Prefix { return share.SourceOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})) }
	first := take(m.acquire(source(1))) + take(m.acquire(source(1)))
	if first < limit*70/100 || first > limit*3/4 {
		t.Errorf("one address took %d of %d, want three quarters", first, limit)
	}
	second := m.acquire(source(2))
	if n := take(second); n < limit/8 {
		t.Errorf("another address got %d of %d", n, limit)
	}
	for i := range 3 {
		if n := take(m.acquire(source(3 + i))); n < piece {
			t.Errorf("address %d got %d", 3+i, n)
		}
	}
	used := second.InUse()
	before := m.all.InUse()
	second.Give(int(used))
	if n := m.all.InUse(); n != before-used || second.InUse() != 0 {
		t.Errorf("%d used after giving back %d of %d", n, used, before)
	}
	m.release(source(1))
	if m.parts[source(1)] == nil {
		t.Error("forgotten while a client of the address is there")
	}
	if m.release(source(1)); m.parts[source(1)] != nil {
		t.Error("remembered although no client of the address is there")
	}
}

// While the admission controller cannot be reached, the number of log lines is limited for each
// address.
func TestUnadmittedLines(t *testing.T) {
	var logged bytes.Buffer
	away := relaytest.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("away") })
	s := newTestServer(t, Config{AdmissionURL: "http://controller.example", HTTPClient: &http.Client{Transport: away},
		Log: slog.New(slog.NewTextHandler(&logged, nil))})
	client := relaytest.LoadVectors(t).Public(t, "client")
	for range 100 {
		if err := s.checkAdmission(client, netip.MustParseAddr("198.51.100.7")); err != nil {
			t.Fatal(err)
		}
	}
	s.checkAdmission(client, netip.MustParseAddr("192.0.2.1"))
	if n := strings.Count(logged.String(), "admission controller not reachable"); n != 3 {
		t.Errorf("%d lines for 100 clients of one address and one of another, want 2 and 1", n)
	}
}
