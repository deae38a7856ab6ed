package relay_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
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

// Section 8.3: delay = min(n^2 * 10 ms, 5 s) * uniform(0.5, 1.5).
func TestPoolBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		p := w.pool(1)
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		for i := 1; i < len(w.dials); i++ {
			least, most := jitterBounds(min(time.Duration(i*i)*10*time.Millisecond, 5*time.Second))
			if d := w.dials[i].Sub(w.dials[i-1]); d < least || d > most {
				t.Errorf("attempt %d after %v, want %v to %v", i+1, d, least, most)
			}
		}
		n := len(w.dials)
		w.mu.Unlock()
		if n < 60 || n > 100 {
			t.Errorf("%d attempts in 5 minutes", n)
		}
		if st := p.region(1); st.State != relay.RegionWaiting || st.Err == nil ||
			!strings.Contains(st.Err.Error(), "connection refused") {
			t.Errorf("status %+v", st)
		}

		w.serve(1)
		time.Sleep(8 * time.Second)
		p.wantState(1, relay.RegionConnected)
		if st := p.region(1); st.Err != nil {
			t.Errorf("connected, but %v", st.Err)
		}
		w.srv[1].Close()
		w.serve(1)
		time.Sleep(20 * time.Millisecond) // the count starts anew
		p.wantState(1, relay.RegionConnected)
	})
}

func jitterBounds(d time.Duration) (least, most time.Duration) { return d / 2, d * 3 / 2 }

// A login that is refused again and again counts as a failure each time, although the server greets
// the client.
func TestPoolRefusedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		away := relaytest.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, errRegionTest })
		s := newServer(t, server.Config{AdmissionURL: "http://controller.example", AdmissionStrict: true,
			HTTPClient: &http.Client{Transport: away}})
		rawpeer.Serve(t, s, w.net.Listen("r1.example:443"), s.TLSConfig(w.base))
		w.pool(1)
		time.Sleep(time.Minute)
		if n := w.dialled(); n > 30 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

// A region that is no longer needed becomes idle, even if it was never connected.
func TestPoolGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		p := w.pool(0)
		p.send(1, key.NewNodePrivate().Public(), "lost")
		time.Sleep(2 * time.Minute)
		p.wantState(1, relay.RegionIdle)
		n := w.dialled()
		time.Sleep(10 * time.Minute)
		if w.dialled() != n || n == 0 {
			t.Errorf("%d, then %d attempts", n, w.dialled())
		}
	})
}

// After a network change, a connection with a local address that is gone is replaced at once (8.3).
func TestPoolNetworkChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2)
		var mu sync.Mutex
		addrs := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
		p := w.pool(1, func(c *relay.PoolConfig) {
			c.LocalAddrs = func() ([]netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				return addrs, nil
			}
		})
		local := func() string { return fmt.Sprint(p.region(1).LastHeard) }
		before := local()
		time.Sleep(time.Second)
		p.NetworkChanged() // the address is there and the ping is answered
		time.Sleep(10 * time.Second)
		if w.dialled() != 1 || local() == before {
			t.Errorf("%d connections, want the first to stand after a ping", w.dialled())
		}
		mu.Lock()
		addrs = []netip.Addr{netip.MustParseAddr("198.51.100.2")}
		mu.Unlock()
		w.net.SetClient(addrs[0])
		start := time.Now()
		p.NetworkChanged()
		p.wantState(1, relay.RegionConnected)
		if w.dialled() != 2 || time.Since(start) != 0 {
			t.Errorf("%d connections, want a new one at once", w.dialled())
		}
	})
}

// After a network change, a dead connection is found within 3 s.
func TestPoolNetworkChangedDeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example")
		peerc := make(chan *rawpeer.Peer, 10)
		go func() {
			for range 2 {
				p, client, _ := s.AcceptLogin()
				p.Admit(client, derp.ServerInfo{Version: 2})
				peerc <- p
			}
		}()
		p := w.pool(1, func(c *relay.PoolConfig) {
			c.LocalAddrs = func() ([]netip.Addr, error) { return nil, errRegionTest } // not known: the ping decides
		})
		p.wantState(1, relay.RegionConnected)
		dead := <-peerc
		dead.WantFrame(derp.FrameNotePreferred)
		start := time.Now()
		p.NetworkChanged()
		p.NetworkChanged()
		dead.WantFrame(derp.FramePing)
		<-peerc
		if d := time.Since(start); d < relay.PingLimit || d > relay.PingLimit+100*time.Millisecond {
			t.Errorf("new connection after %v", d)
		}
		p.wantState(1, relay.RegionConnected)
		p.Close()
	})
}

// A network change ends the wait between two attempts.
func TestPoolNetworkChangedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		p := w.pool(1)
		time.Sleep(time.Minute)
		for p.region(1).State != relay.RegionWaiting {
			time.Sleep(time.Millisecond)
		}
		w.serve(1)
		start := time.Now()
		p.NetworkChanged()
		p.wantState(1, relay.RegionConnected)
		if time.Since(start) != 0 {
			t.Errorf("connected after %v", time.Since(start))
		}
	})
}

// A client comes back to a restarting server when the server has asked for it (3.13).
func TestPoolFollowsRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example")
		p := w.pool(1)
		peer, client, _ := s.AcceptLogin()
		peer.Admit(client, derp.ServerInfo{Version: 2})
		peer.Write(derp.AppendRestarting(nil, derp.RestartAdvice{ReconnectIn: 3000, TryFor: 5000}))
		synctest.Wait()
		s.Listener.Close()
		peer.Conn.Close()
		start := time.Now()
		synctest.Wait()
		n := w.dialled()
		time.Sleep(2900 * time.Millisecond)
		if w.dialled() != n {
			t.Error("came back before it was asked to")
		}
		time.Sleep(4 * time.Second)
		if got := w.dialled() - n; got < 8 || got > 40 {
			t.Errorf("%d attempts in 4 s of a restart", got)
		}
		w.serve(1)
		time.Sleep(500 * time.Millisecond)
		p.wantState(1, relay.RegionConnected)
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("back after %v", d)
		}
	})
}

// The status shows what the relay complains about, without control characters.
func TestPoolHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := relaytest.LoadVectors(t)
		w := newPoolWorld(t)
		w.addRegion(1)
		s := rawpeer.StartTLS(t, w.net, "r1.example")
		p := w.pool(1)
		peer, client, _ := s.AcceptLogin()
		if st := p.region(1); st.State != relay.RegionConnecting {
			t.Errorf("state %v before the login is answered", st.State)
		}
		peer.Admit(client, derp.ServerInfo{Version: 2})
		peer.Write(f.Find(t, "health_problem"))
		synctest.Wait()
		if got := p.region(1).Health; got != "duplicate connection for this key" {
			t.Errorf("health %q", got)
		}
		peer.Write(append(derp.AppendHeader(nil, derp.FrameHealth, 9), "\x1b[1mbad\r\n"...))
		synctest.Wait()
		if got := p.region(1).Health; got != "?[1mbad" {
			t.Errorf("health %q", got)
		}
		peer.Write(f.Find(t, "health_ok"))
		synctest.Wait()
		if got := p.region(1).Health; got != "" {
			t.Errorf("health %q", got)
		}
		p.Close()
	})
}

// After a refused upgrade a region connects by WebSocket at once, also the next time.
func TestPoolRemembersWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := relaytest.NewNet()
		ca := relaytest.NewCA(t)
		r := startRecorder(t, inner, func(s *server.Server) *tls.Config {
			return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{ca.Issue(1000*time.Hour, "relay.example")}})
		})
		outer := startInspector(t, inner, ca, refuseDERP)
		self := key.NewNodePrivate()
		p := relay.NewPool(relay.PoolConfig{Key: self, Roots: ca.Pool(), DialContext: outer.DialContext,
			Log: relaytest.Log(t)})
		defer p.Close()
		p.SetMap(relay.Map{Regions: map[int]*relay.Region{1: {RegionID: 1,
			Nodes: []*relay.Node{{Name: "1a", RegionID: 1, HostName: "relay.example"}}}}})
		p.SetHome(1)
		synctest.Wait()
		st := p.Status().Regions[0]
		if st.Transport != relay.TransportWebSocket || st.State != relay.RegionConnected {
			t.Fatalf("status %+v", st)
		}
		r.Revoke(self.Public()) // ends the connection
		time.Sleep(time.Second)
		if got := r.seen(); !slices.Equal(got, []string{"websocket", "websocket"}) {
			t.Errorf("requests that reached the relay: %q", got)
		}
		p.Close()
		r.Close()
	})
}

// A region changes to WebSocket if the refusal is noticed only after a fast start.
func TestPoolWebSocketAfterFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := newServer(t, server.Config{})
		srv := &recorder{Server: s}
		hs := newHTTPServer(t, s.Listener(w.net.Listen("r1.example:443"), s.TLSConfig(w.base)), refuser{srv})
		defer hs()
		p := w.pool(1)
		time.Sleep(time.Second)
		if st := p.region(1); st.Transport != relay.TransportWebSocket || st.State != relay.RegionConnected {
			t.Errorf("status %+v", st)
		}
		p.Close()
		s.Close()
	})
}

func TestRegionStateNames(t *testing.T) {
	for s, want := range map[relay.RegionState]string{relay.RegionIdle: "idle", relay.RegionConnecting: "connecting",
		relay.RegionConnected: "connected", relay.RegionWaiting: "waiting"} {
		if s.String() != want {
			t.Errorf("got %v, want %s", s, want)
		}
	}
}

// errRegionTest is an arbitrary failure.
var errRegionTest = errors.New("failed for the test")
