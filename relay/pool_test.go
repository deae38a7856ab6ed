package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
	"ginnel/relay/server"
)

// poolWorld is a network in memory with one relay for each region, at r1.example and so on.
type poolWorld struct {
	t    *testing.T
	net  *relaytest.Net
	base *tls.Config
	m    relay.Map
	srv  map[int]*server.Server

	mu    sync.Mutex
	dials []time.Time // times of all dials
}

func newPoolWorld(t *testing.T, regions ...int) *poolWorld {
	w := &poolWorld{t: t, net: relaytest.NewNet(), srv: make(map[int]*server.Server),
		m: relay.Map{Regions: make(map[int]*relay.Region)}}
	ca := relaytest.NewCA(t)
	w.base = &tls.Config{Certificates: []tls.Certificate{ca.Issue(1000*time.Hour, "r1.example", "r2.example",
		"r3.example")}}
	for _, id := range regions {
		w.addRegion(id)
		w.serve(id)
	}
	return w
}

func (w *poolWorld) host(id int) string { return fmt.Sprintf("r%d.example", id) }

func (w *poolWorld) addRegion(id int) {
	w.m.Regions[id] = &relay.Region{RegionID: id, Nodes: []*relay.Node{{Name: fmt.Sprintf("%da", id), RegionID: id,
		HostName: w.host(id), InsecureForTests: true}}}
}

// serve starts the relay of a region.
func (w *poolWorld) serve(id int) *server.Server {
	s := newServer(w.t, server.Config{})
	rawpeer.Serve(w.t, s, w.net.Listen(w.host(id)+":443"), s.TLSConfig(w.base))
	w.srv[id] = s
	return s
}

func (w *poolWorld) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "tcp4" {
		w.mu.Lock()
		w.dials = append(w.dials, time.Now())
		w.mu.Unlock()
	}
	return w.net.DialContext(ctx, network, addr)
}

func (w *poolWorld) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dials)
}

// testPool is a pool that collects what it receives.
type testPool struct {
	*relay.Pool
	t    *testing.T
	key  key.NodePublic
	gotc chan received
}

type received struct {
	region  int
	from    key.NodePublic
	packets []string
}

func (w *poolWorld) pool(home int, change ...func(*relay.PoolConfig)) *testPool {
	k := key.NewNodePrivate()
	p := &testPool{t: w.t, key: k.Public(), gotc: make(chan received, 1000)}
	cfg := relay.PoolConfig{Key: k, Log: relaytest.Log(w.t), DialContext: w.dial,
		Receive: func(region int, from key.NodePublic, packets [][]byte) {
			r := received{region: region, from: from}
			for _, b := range packets {
				r.packets = append(r.packets, string(b))
			}
			p.gotc <- r
		}}
	for _, f := range change {
		f(&cfg)
	}
	p.Pool = relay.NewPool(cfg)
	w.t.Cleanup(func() { p.Close() })
	p.SetMap(w.m)
	p.SetHome(home)
	synctest.Wait()
	return p
}

// want checks the next packets.
func (p *testPool) want(region int, from key.NodePublic, packets ...string) {
	p.t.Helper()
	for len(packets) > 0 {
		select {
		case r := <-p.gotc:
			n := min(len(r.packets), len(packets))
			if r.region != region || r.from != from || !slices.Equal(r.packets, packets[:n]) {
				p.t.Fatalf("got %+v, want %q from %v through %d", r, packets, from, region)
			}
			packets = packets[n:]
		case <-time.After(time.Minute):
			p.t.Fatalf("nothing came, want %q", packets)
		}
	}
}

func (p *testPool) send(region int, to key.NodePublic, packets ...string) {
	p.t.Helper()
	var b [][]byte
	for _, s := range packets {
		b = append(b, []byte(s))
	}
	if err := p.Send(region, to, b); err != nil {
		p.t.Fatal(err)
	}
}

// region returns the status of a region.
func (p *testPool) region(id int) relay.RegionStatus {
	p.t.Helper()
	for _, r := range p.Status().Regions {
		if r.Region == id {
			return r
		}
	}
	p.t.Fatalf("region %d is not in the status", id)
	return relay.RegionStatus{}
}

func (p *testPool) wantState(id int, want relay.RegionState) {
	p.t.Helper()
	synctest.Wait()
	if got := p.region(id); got.State != want {
		p.t.Errorf("region %d is %v (%v), want %v", id, got.State, got.Err, want)
	}
}

func TestPoolHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2)
		p := w.pool(1)
		p.wantState(1, relay.RegionConnected)
		p.wantState(2, relay.RegionIdle)
		rawpeer.WantMetric(t, w.srv[1], "ginnel_relay_home_connections", 1)
		st := p.region(1)
		if st.Transport != relay.TransportNative || st.RemoteAddr.String() != "203.0.113.1:443" ||
			st.LastHeard.IsZero() || p.Status().Home != 1 {
			t.Errorf("status %+v", st)
		}
		time.Sleep(time.Hour) // the home is never idle
		p.wantState(1, relay.RegionConnected)
		rawpeer.WantMetric(t, w.srv[1], `ginnel_relay_accepted_connections_total{transport="derp"}`, 1)

		p.SetHome(2)
		p.wantState(2, relay.RegionConnected)
		rawpeer.WantMetric(t, w.srv[1], "ginnel_relay_home_connections", 0)
		rawpeer.WantMetric(t, w.srv[2], "ginnel_relay_home_connections", 1)
		time.Sleep(16 * time.Second) // the old one ends by the rule for idle ones: nothing was ever sent
		p.wantState(1, relay.RegionIdle)

		p.SetHome(0)
		time.Sleep(16 * time.Second)
		p.wantState(2, relay.RegionIdle)
		p.SetHome(7) // not in the map yet
		w.addRegion(7)
		w.m.Regions[7].Nodes[0].HostName = "r1.example"
		p.SetMap(w.m)
		p.wantState(7, relay.RegionConnected)
	})
}

// A region is connected when there is something to send, and packets queued meanwhile arrive in
// order. It is closed 60 to 75 s after the last packet was sent, whatever is received.
func TestPoolOnDemandAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2)
		a, b := w.pool(1), w.pool(2)
		a.send(2, b.key, "1", "2")
		a.send(2, b.key, "3")
		b.want(2, a.key, "1", "2", "3")
		a.wantState(2, relay.RegionConnected)
		start := time.Now()
		for a.region(2).State == relay.RegionConnected {
			time.Sleep(time.Second)
			b.send(2, a.key, "received traffic does not count")
		}
		if d := time.Since(start); d < relay.IdleLimit || d > relay.IdleLimit+relay.IdleInterval+time.Second {
			t.Errorf("closed after %v", d)
		}
		a.wantState(2, relay.RegionIdle)
		if st := a.region(2); st.Err != nil || st.TxPackets != 3 || st.TxBytes != 3 || st.RxPackets == 0 ||
			st.Transport != relay.TransportNone {
			t.Errorf("status %+v", st)
		}
		for len(a.gotc) > 0 {
			<-a.gotc
		}
		a.send(2, b.key, "again")
		b.want(2, a.key, "again")
	})
}

// A pool checks for idle regions only while a region other than the home is in use.
func TestPoolWithoutIdleRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2)
		a, b := w.pool(1), w.pool(2)
		want := func(what string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := a.CloseIdle(time.Now()); got != want {
				t.Errorf("%s: another look is needed: %v, want %v", what, got, want)
			}
		}
		want("only the home is in use", false)
		for range 2 {
			a.send(2, b.key, "hello")
			want("another region is in use", true)
			time.Sleep(relay.IdleLimit + relay.IdleInterval + time.Second)
			a.wantState(2, relay.RegionIdle)
			want("it is not any more", false)
			time.Sleep(time.Hour)
		}
	})
}

// A peer is answered through the region its packets came through, without connecting to its home,
// until it is gone from there (8.5). The route is learned again with its next packet.
func TestPoolReverseRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2, 3)
		a, b := w.pool(1), w.pool(3)
		b.send(1, a.key, "hello")
		a.want(1, b.key, "hello")
		a.send(3, b.key, "answer") // home 3 is not connected
		b.want(1, a.key, "answer")
		a.send(0, b.key, "home not known")
		b.want(1, a.key, "home not known")
		a.wantState(3, relay.RegionIdle)
		if err := a.Send(0, key.NewNodePrivate().Public(), [][]byte{{1}}); !errors.Is(err, relay.ErrUnknownRegion) {
			t.Errorf("unknown peer, unknown home: %v", err)
		}

		time.Sleep(80 * time.Second) // b leaves region 1; a is told
		b.wantState(1, relay.RegionIdle)
		a.send(3, b.key, "to the home")
		b.want(3, a.key, "to the home")
		time.Sleep(80 * time.Second)
		a.wantState(3, relay.RegionIdle)
		b.send(1, a.key, "again")
		a.want(1, b.key, "again")
		a.send(2, b.key, "learned anew")
		b.want(1, a.key, "learned anew")
		// A connection to the home has precedence.
		a.send(3, b.key, "x")
		b.want(1, a.key, "x")
	})
}

// Packets of one source that came together are handed on together.
func TestPoolBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1)
		a, b := w.pool(1), w.pool(1)
		var packets []string
		for i := range 40 {
			packets = append(packets, strings.Repeat(string(rune('a'+i)), 1300))
		}
		a.send(1, b.key, packets...)
		synctest.Wait()
		if n := len(b.gotc); n > 8 { // 52 kB in records of 16 KiB, the header of each first frame alone
			t.Errorf("40 packets came in %d calls", n)
		}
		b.want(1, a.key, packets...)
	})
}

// While a region connects, Send takes packets up to a bound, soon drops the rest, and never waits
// for long.
func TestPoolSendWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example") // accepts, says nothing
		p := w.pool(1)
		start, slowest := time.Now(), time.Duration(0)
		packet := [][]byte{make([]byte, 1400)}
		for i := range 5 {
			to := key.NodePublic{byte(i + 1)}
			for range 500 {
				before := time.Now()
				if err := p.Send(1, to, packet); err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, time.Since(before))
			}
		}
		if slowest > relay.ClientPatience || time.Since(start) > 5*relay.ClientPatience {
			t.Errorf("slowest Send %v, all %v", slowest, time.Since(start))
		}
		st := p.region(1)
		if kept := 2500 - st.Drops; kept < 200 || kept*1437 > 2*uint64(relay.ClientQueueTotal) {
			t.Errorf("%d packets kept", kept)
		}
		s.Listener.Close()
	})
}

// A new map closes regions that have changed or are gone, connects to the home again, and leaves
// the other regions alone.
func TestPoolSetMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2, 3)
		p, peer := w.pool(1), w.pool(2)
		p.send(2, peer.key, "x")
		p.send(3, peer.key, "x")
		peer.want(2, p.key, "x")
		accepted := func(id int) float64 {
			return rawpeer.Metric(t, w.srv[id], `ginnel_relay_accepted_connections_total{transport="derp"}`)
		}
		p.wantState(3, relay.RegionConnected)
		again := relay.Map{Regions: map[int]*relay.Region{}}
		for _, id := range []int{1, 2} {
			r := *w.m.Regions[id]
			r.Nodes = []*relay.Node{new(relay.Node)}
			*r.Nodes[0] = *w.m.Regions[id].Nodes[0]
			again.Regions[id] = &r
		}
		again.Regions[1].RegionName = "renamed"
		p.SetMap(again)
		time.Sleep(time.Second)
		p.wantState(1, relay.RegionConnected)
		p.wantState(2, relay.RegionConnected)
		if accepted(1) != 2 || accepted(2) != 2 { // 2 is the peer's home
			t.Errorf("connections: %v and %v", accepted(1), accepted(2))
		}
		if rawpeer.Metric(t, w.srv[3], "ginnel_relay_connections") != 0 {
			t.Error("vanished region is still connected")
		}
		if err := p.Send(3, peer.key, [][]byte{{1}}); !errors.Is(err, relay.ErrUnknownRegion) {
			t.Errorf("Send to a vanished region: %v", err)
		}
		p.SetMap(relay.Map{})
		synctest.Wait()
		if rawpeer.Metric(t, w.srv[1], "ginnel_relay_connections") != 0 || len(p.Status().Regions) != 0 {
			t.Error("empty map, but connections")
		}
	})
}

// Watch yields the last state after each change, and ends with the pool or with its context.
func TestPoolWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1)
		p := w.pool(0)
		statec := make(chan string, 100)
		ended := make(chan struct{})
		go func() {
			for st := range p.Watch(t.Context()) {
				statec <- fmt.Sprintf("home %d %v", st.Home, st.Regions[0].State)
			}
			close(ended)
		}()
		wantState := func(want string) {
			t.Helper()
			last := ""
			synctest.Wait()
			for len(statec) > 0 {
				last = <-statec
			}
			if last != want {
				t.Errorf("last state %q, want %q", last, want)
			}
		}
		wantState("home 0 idle")
		p.SetHome(1)
		wantState("home 1 connected")
		time.Sleep(10 * time.Minute)
		if len(statec) > 0 {
			t.Errorf("%d states without a change", len(statec))
		}
		w.srv[1].Close()
		wantState("home 1 waiting")
		p.Close()
		<-ended

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p = w.pool(0)
		n := 0
		for range p.Watch(ctx) {
			n++
			cancel()
		}
		if n != 1 {
			t.Errorf("%d states after the context ended", n)
		}
		for range p.Watch(t.Context()) {
			break
		}
	})
}

// Close ends every state of a region at once and may be repeated.
func TestPoolClose(t *testing.T) {
	for name, prepare := range map[string]func(w *poolWorld) *testPool{
		"idle":      func(w *poolWorld) *testPool { return w.pool(0) },
		"connected": func(w *poolWorld) *testPool { w.addRegion(1); w.serve(1); return w.pool(1) },
		"connecting": func(w *poolWorld) *testPool {
			w.addRegion(1)
			rawpeer.StartTLS(w.t, w.net, "r1.example")
			return w.pool(1)
		},
		"waiting": func(w *poolWorld) *testPool { w.addRegion(1); p := w.pool(1); time.Sleep(time.Minute); return p },
		"pinging": func(w *poolWorld) *testPool {
			w.addRegion(1)
			s := rawpeer.StartTLS(w.t, w.net, "r1.example")
			p := w.pool(1)
			peer, client, _ := s.AcceptLogin()
			peer.Admit(client, derp.ServerInfo{})
			synctest.Wait()
			p.NetworkChanged()
			return p
		},
		"stuck": func(w *poolWorld) *testPool {
			w.addRegion(1)
			w.net.Limit = 3000
			s := rawpeer.StartTLS(w.t, w.net, "r1.example")
			p := w.pool(1)
			peer, client, _ := s.AcceptLogin()
			peer.Admit(client, derp.ServerInfo{})
			for range 10 {
				p.Send(1, p.key, [][]byte{bytes.Repeat([]byte{1}, 30_000)})
			}
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := prepare(newPoolWorld(t))
				start := time.Now()
				p.Close()
				p.Close()
				if d := time.Since(start); d != 0 {
					t.Errorf("closing took %v", d)
				}
				if err := p.Send(1, p.key, [][]byte{{1}}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Send after Close: %v", err)
				}
				p.SetMap(relay.Map{})
				p.SetHome(1)
				p.NetworkChanged()
				for range p.Watch(t.Context()) {
					t.Error("Watch after Close yields")
				}
			})
		})
	}
}

// A relay that takes packets and says nothing is left within seconds of the first packet. A relay
// that answers is never left.
func TestPoolLeavesSilentRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 2)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example")
		silent, alive := w.pool(1), w.pool(2)
		peer, client, _ := s.AcceptLogin()
		peer.Admit(client, derp.ServerInfo{})
		synctest.Wait()
		time.Sleep(30 * time.Second)
		dialled := w.dialled()
		for range 60 {
			alive.send(2, key.NewNodePrivate().Public(), "to nobody")
			time.Sleep(time.Second)
		}
		if n := w.dialled() - dialled; n != 0 {
			t.Errorf("%d connections beside one that works", n)
		}
		silent.wantState(1, relay.RegionConnected)
		silent.send(1, alive.key, "lost")
		time.Sleep(relay.PingLimit + time.Second)
		synctest.Wait()
		if st := silent.Status().Regions[0]; st.State == relay.RegionConnected || w.dialled() == dialled {
			t.Errorf("after %v the relay is %v and %d connections were made anew", relay.PingLimit, st.State,
				w.dialled()-dialled)
		}
	})
}

// A relay is kept if its answer to a ping waits behind packets.
func TestPoolKeepsBusyRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example")
		p := w.pool(1)
		peer, client, _ := s.AcceptLogin()
		peer.Admit(client, derp.ServerInfo{})
		synctest.Wait()
		time.Sleep(30 * time.Second)
		p.send(1, key.NewNodePrivate().Public(), "which is followed by a ping")
		time.Sleep(relay.PingLimit / 2)
		peer.Write(derp.AppendKeepAlive(nil))
		time.Sleep(relay.PingLimit)
		synctest.Wait()
		p.wantState(1, relay.RegionConnected)
		if n := w.dialled(); n != 1 {
			t.Errorf("%d connections, want the first alone", n)
		}
	})
}

// Nulls in place of regions and nodes, which a map should not have, are skipped.
func TestPoolToleratesNulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1)
		p := w.pool(2)
		entry := *w.m.Regions[1]
		entry.Nodes = append([]*relay.Node{nil}, entry.Nodes...)
		p.SetMap(relay.Map{Regions: map[int]*relay.Region{1: &entry, 2: {RegionID: 2, Nodes: []*relay.Node{nil}},
			3: nil}})
		p.send(1, key.NewNodePrivate().Public(), "on its way")
		p.wantState(1, relay.RegionConnected)
		p.wantState(2, relay.RegionWaiting)
		p.NetworkChanged()
	})
}
