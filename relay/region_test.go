package relay

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

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
		if st := p.region(1); st.State != RegionWaiting || st.Err == nil || !strings.Contains(st.Err.Error(), "connection refused") {
			t.Errorf("status %+v", st)
		}

		w.serve(1)
		time.Sleep(8 * time.Second)
		p.wantState(1, RegionConnected)
		if st := p.region(1); st.Err != nil {
			t.Errorf("connected, but %v", st.Err)
		}
		w.srv[1].Close()
		w.serve(1)
		time.Sleep(20 * time.Millisecond) // the count starts anew
		p.wantState(1, RegionConnected)
	})
}

func jitterBounds(d time.Duration) (least, most time.Duration) { return d / 2, d * 3 / 2 }

func TestPoolRefusedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		away := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errTestDial })
		s := newTestServer(t, ServerConfig{AdmissionURL: "http://controller.example", AdmissionStrict: true, HTTPClient: &http.Client{Transport: away}})
		serveUntilEnd(t, s, w.net.listen("r1.example:443"), s.TLSConfig(w.base))
		w.pool(1)
		time.Sleep(time.Minute)
		if n := w.dialled(); n > 30 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestPoolGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		p := w.pool(0)
		p.send(1, key.NewNodePrivate().Public(), "lost")
		time.Sleep(2 * time.Minute)
		p.wantState(1, RegionIdle)
		n := w.dialled()
		time.Sleep(10 * time.Minute)
		if w.dialled() != n || n == 0 {
			t.Errorf("%d, then %d attempts", n, w.dialled())
		}
	})
}

func TestPoolNetworkChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t, 1, 2)
		var mu sync.Mutex
		addrs := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
		p := w.pool(1, func(c *PoolConfig) {
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
		w.net.setClient(addrs[0])
		start := time.Now()
		p.NetworkChanged()
		p.wantState(1, RegionConnected)
		if w.dialled() != 2 || time.Since(start) != 0 {
			t.Errorf("%d connections, want a new one at once", w.dialled())
		}
	})
}

func TestPoolNetworkChangedDeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := startRawTLS(t, w.net, "r1.example")
		peerc := make(chan *rawPeer, 10)
		go func() {
			for range 2 {
				p, client, _ := s.acceptLogin()
				p.admit(client, serverInfo{Version: 2})
				peerc <- p
			}
		}()
		p := w.pool(1, func(c *PoolConfig) {
			c.LocalAddrs = func() ([]netip.Addr, error) { return nil, errTestDial } // not known: the ping decides
		})
		p.wantState(1, RegionConnected)
		dead := <-peerc
		dead.wantFrame(frameNotePreferred)
		start := time.Now()
		p.NetworkChanged()
		p.NetworkChanged()
		dead.wantFrame(framePing)
		<-peerc
		if d := time.Since(start); d < pingLimit || d > pingLimit+100*time.Millisecond {
			t.Errorf("new connection after %v", d)
		}
		p.wantState(1, RegionConnected)
		p.Close()
	})
}

func TestPoolNetworkChangedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		p := w.pool(1)
		time.Sleep(time.Minute)
		for p.region(1).State != RegionWaiting {
			time.Sleep(time.Millisecond)
		}
		w.serve(1)
		start := time.Now()
		p.NetworkChanged()
		p.wantState(1, RegionConnected)
		if time.Since(start) != 0 {
			t.Errorf("connected after %v", time.Since(start))
		}
	})
}

func TestPoolFollowsRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := startRawTLS(t, w.net, "r1.example")
		p := w.pool(1)
		peer, client, _ := s.acceptLogin()
		peer.admit(client, serverInfo{Version: 2})
		peer.write(appendRestarting(nil, restart{reconnectIn: 3000, tryFor: 5000}))
		synctest.Wait()
		s.ln.Close()
		peer.conn.Close()
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
		p.wantState(1, RegionConnected)
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("back after %v", d)
		}
	})
}

func TestPoolHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := loadVectors(t)
		w := newPoolWorld(t)
		w.addRegion(1)
		s := startRawTLS(t, w.net, "r1.example")
		p := w.pool(1)
		peer, client, _ := s.acceptLogin()
		if st := p.region(1); st.State != RegionConnecting {
			t.Errorf("state %v before the login is answered", st.State)
		}
		peer.admit(client, serverInfo{Version: 2})
		peer.write(f.find(t, "health_problem"))
		synctest.Wait()
		if got := p.region(1).Health; got != "duplicate connection for this key" {
			t.Errorf("health %q", got)
		}
		peer.write(append(appendHeader(nil, frameHealth, 9), "\x1b[1mbad\r\n"...))
		synctest.Wait()
		if got := p.region(1).Health; got != "?[1mbad" {
			t.Errorf("health %q", got)
		}
		peer.write(f.find(t, "health_ok"))
		synctest.Wait()
		if got := p.region(1).Health; got != "" {
			t.Errorf("health %q", got)
		}
		p.Close()
	})
}

func TestPoolRemembersWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newMemNet()
		ca := newTestCA(t)
		r := startRecorder(t, inner, func(s *Server) *tls.Config {
			return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{ca.issue(1000*time.Hour, "relay.example")}})
		})
		outer := startInspector(t, inner, ca, refuseDERP)
		p := NewPool(PoolConfig{Key: key.NewNodePrivate(), Roots: ca.pool(), DialContext: outer.DialContext, Log: testLog(t)})
		defer p.Close()
		p.SetMap(Map{Regions: map[int]*Region{1: {RegionID: 1, Nodes: []*Node{{Name: "1a", RegionID: 1, HostName: "relay.example"}}}}})
		p.SetHome(1)
		synctest.Wait()
		st := p.Status().Regions[0]
		if st.Transport != TransportWebSocket || st.State != RegionConnected {
			t.Fatalf("status %+v", st)
		}
		r.Server.mu.Lock()
		for c := range r.conns.all() {
			c.wire.fail(errTestDial)
		}
		r.Server.mu.Unlock()
		time.Sleep(time.Second)
		if got := r.seen(); !slices.Equal(got, []string{"websocket", "websocket"}) {
			t.Errorf("requests that reached the relay: %q", got)
		}
		p.Close()
		r.Close()
	})
}

func TestPoolWebSocketAfterFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPoolWorld(t)
		w.addRegion(1)
		s := newTestServer(t, ServerConfig{})
		srv := &recorder{Server: s}
		hs := newHTTPServer(t, s.Listener(w.net.listen("r1.example:443"), s.TLSConfig(w.base)), refuser{srv})
		defer hs()
		p := w.pool(1)
		time.Sleep(time.Second)
		if st := p.region(1); st.Transport != TransportWebSocket || st.State != RegionConnected {
			t.Errorf("status %+v", st)
		}
		p.Close()
		s.Close()
	})
}

func TestRegionStateNames(t *testing.T) {
	for s, want := range map[RegionState]string{RegionIdle: "idle", RegionConnecting: "connecting", RegionConnected: "connected", RegionWaiting: "waiting"} {
		if s.String() != want {
			t.Errorf("got %v, want %s", s, want)
		}
	}
}
