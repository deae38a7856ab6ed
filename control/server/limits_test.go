package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/control/store"
)

// The number of connections of machines without a node is limited. Connections of nodes do not
// count.
func TestUnregisteredConnections(t *testing.T) {
	onNet(t, func(c *Config) { c.MaxUnregistered = 2 }, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		for i := range 4 {
			n.join(fmt.Sprint(i), k)
		}
		strangers := []*peer{n.newPeer("x"), n.newPeer("y"), n.newPeer("z")}
		for _, p := range strangers {
			p.idle()
			settle()
		}
		if open, unregistered := n.server.noiseConns.counts(); open != 6 || unregistered != 2 {
			t.Errorf("%d connections, %d unregistered, want 6 and 2", open, unregistered)
		}
		for _, p := range strangers {
			p.leave()
		}
		settle()
		if open, unregistered := n.server.noiseConns.counts(); open != 4 || unregistered != 0 {
			t.Errorf("%d connections, %d unregistered are left, want 4 and 0", open, unregistered)
		}
	})
}

// Machines without a node that use up the limit do not lock out machines with a node.
func TestUnregisteredDoNotLockOut(t *testing.T) {
	onNet(t, func(c *Config) { c.MaxUnregistered = 1 }, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		a.leave()
		n.newPeer("x").register(nil)
		a.dial()
		if resp, refused := a.register(nil); refused != "" || !resp.MachineAuthorized {
			t.Errorf("got %+v %s", resp, refused)
		}
	})
}

// A machine that opens too many connections loses its oldest one.
func TestManyConnectionsOfOneMachine(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		more := make([]*peer, maxMachineConns)
		for i := range more {
			more[i] = n.newPeer("a")
			more[i].machine, more[i].node = a.machine, a.node
			more[i].dial()
			more[i].update(nil)
		}
		settle()
		if open, unregistered := n.server.noiseConns.counts(); open != maxMachineConns || unregistered != 0 || a.err == nil {
			t.Errorf("%d connections, %d unregistered, the oldest ended with %v", open, unregistered, a.err)
		}
		for _, p := range append(more, a) {
			p.leave()
		}
		settle()
		if left := len(n.server.noiseConns.byMachine); left != 0 {
			t.Errorf("%d machines are remembered", left)
		}
	})
}

// stuck is a response whose client does not read until it is released.
type stuck struct {
	sink
	releasec chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.releasec
	return s.sink.Write(p)
}

// A stream that lags too far behind ends instead of sending all missed steps.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newBenchNet(t, 2, store.NewMemory())
		defer n.close()
		w := &stuck{sink: sink{frames: &n.frames, bytes: &n.bytes, header: make(http.Header)}, releasec: make(chan struct{})}
		core, s := n.server.core, &stream{endc: make(chan struct{})}
		core.change(t.Context(), func(t *tx) error {
			s.id = t.nodeByKey(n.nodes[1]).rec.ID
			core.beginStream(t, s)
			return nil
		})
		var err error
		n.wg.Go(func() { err = core.serveStream(context.Background(), w, s, "") })
		for i := range 2 * maxBehind {
			if err := n.move(i); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * minInterval)
		}
		close(w.releasec)
		synctest.Wait()
		if !errors.Is(err, errBehind) {
			t.Errorf("got %v, want %v", err, errBehind)
		}
	})
}

// The number of waiting logins is limited. A machine can have few, and loses its oldest.
func TestManyLogins(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		first := n.newPeer("x")
		for range maxMachineLogins {
			first.register(nil)
			first.node = newNodeKey()
			time.Sleep(time.Second)
		}
		resp, refused := first.register(nil)
		logins, err := n.server.listLogins(t.Context())
		if err != nil || refused != "" || len(logins.Items) != maxMachineLogins {
			t.Errorf("%d logins of one machine, want %d: %s, %v", len(logins.Items), maxMachineLogins, refused, err)
		}
		if last := logins.Items[len(logins.Items)-1]; !strings.HasSuffix(resp.AuthURL, last.ID) {
			t.Errorf("the latest login is %s, want the one of %s", last.ID, resp.AuthURL)
		}
		for range maxLogins/maxMachineLogins - 1 {
			p := n.newPeer("x")
			for range maxMachineLogins {
				p.node = newNodeKey()
				p.register(nil)
			}
			p.leave()
		}
		time.Sleep(time.Second)
		late := n.newPeer("late")
		if _, refused := late.register(nil); refused != "" {
			t.Errorf("one more: %q", refused)
		}
		next, err := n.server.listLogins(t.Context())
		if err != nil || len(next.Items) != maxLogins || next.Items[maxLogins-1].Hostname != "late" ||
			next.Items[0].ID != logins.Items[1].ID {
			t.Errorf("%d logins, %v: want %d, without the oldest and with the latest", len(next.Items), err, maxLogins)
		}
	})
}

// New refuses configurations that cannot work.
func TestNewRefuses(t *testing.T) {
	good := Config{Store: store.NewMemory(), URL: "https://control.test", BaseDomain: "net.test"}
	for name, spoil := range map[string]func(*Config){
		"no store":      func(c *Config) { c.Store = nil },
		"no URL":        func(c *Config) { c.URL = "" },
		"relative URL":  func(c *Config) { c.URL = "/control" },
		"no domain":     func(c *Config) { c.BaseDomain = "" },
		"bad domain":    func(c *Config) { c.BaseDomain = "Net..test" },
		"bad range":     func(c *Config) { c.V4 = c.V6; c.V6 = netip.MustParsePrefix("100.64.0.0/10") },
		"bad policy":    func(c *Config) { c.Policy = []byte("{") },
		"failing store": func(c *Config) { c.Store = closedStore() },
	} {
		cfg := good
		spoil(&cfg)
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("%s: not refused", name)
		}
	}
	s, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := s.CreateUser(t.Context(), "x", ""); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A server that is closing answers updates with 503.
func TestClosingAnswers(t *testing.T) {
	s, err := New(Config{Store: store.NewMemory(), URL: testURL, BaseDomain: "net.test"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	w, r := httptest.NewRecorder(), httptest.NewRequest("POST", pathMachine+"map", nil)
	s.serveMachine(w, r.WithContext(withNoiseConn(t.Context(), &noiseConn{})))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", w.Code)
	}
}

func closedStore() Store {
	m := store.NewMemory()
	m.Close()
	return m
}
