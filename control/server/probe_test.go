package server

import (
	"slices"
	"testing"
	"time"

	"ginnel/key"
)

// router joins with routes that the administrator approves.
func (n *testNet) router(name, authKey string, routes ...string) *peer {
	n.t.Helper()
	r := n.newPeer(name)
	r.host.RoutableIPs = prefixes(routes...)
	r.register(withKey(authKey))
	r.stream()
	r.update(nil)
	settle()
	if _, err := n.server.approveRoutes(n.t.Context(), n.node(name).ID, r.host.RoutableIPs); err != nil {
		n.t.Fatal(err)
	}
	settle()
	return r
}

// A router that loses its power is offline, and replaced, within 15 s if another router serves the
// same subnet. When it returns it is not elected again.
func TestDeadRouter(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		r1, r2 := n.router("r1", k, "10.1.0.0/16"), n.router("r2", k, "10.1.0.0/16", "10.2.0.0/16")
		lone, w := n.router("lone", k, "10.3.0.0/16", "0.0.0.0/0"), n.join("w", k)
		time.Sleep(time.Hour)
		if !slices.Contains(w.sees("r1").PrimaryRoutes, r1.host.RoutableIPs[0]) || r1.err != nil || r2.err != nil {
			t.Fatalf("routers that answer: %v, %v, %v", w.sees("r1"), r1.err, r2.err)
		}
		n.server.core.probed.mu.Lock()
		probed := len(n.server.core.probed.streams)
		n.server.core.probed.mu.Unlock()
		if probed != 2 {
			t.Errorf("%d nodes are probed, want the two redundant routers", probed)
		}
		died := time.Now()
		r1.powerOff.Store(true)
		lone.powerOff.Store(true)
		for !slices.Contains(w.sees("r2").PrimaryRoutes, r1.host.RoutableIPs[0]) {
			if time.Sleep(100 * time.Millisecond); time.Since(died) > 15*time.Second {
				t.Fatal("not replaced within 15 s")
			}
		}
		if online(w.sees("r1")) || !online(w.sees("r2")) {
			t.Error("want only the dead router offline")
		}
		r1.leave()
		r1.powerOff.Store(false)
		r1.dial()
		r1.stream()
		if settle(); !online(w.sees("r1")) || !slices.Contains(w.sees("r2").PrimaryRoutes, r1.host.RoutableIPs[0]) {
			t.Error("the router is not back online without being elected")
		}
	})
}

// Only the machine that was sent a probe can answer it.
func TestProbeAnswers(t *testing.T) {
	asked, other := key.NewMachinePrivate().Public(), key.NewMachinePrivate().Public()
	var p probedStreams
	s := newStream(asked, process{})
	number := p.add(s)
	for _, c := range []struct {
		path    string
		machine key.MachinePublic
		want    bool
	}{
		{"/machine/probe/1/3", asked, true},
		{"/machine/probe/1/4", asked, true}, // although the previous answer has not been read
		{"/machine/probe/1/3", other, false},
		{"/machine/probe/2/3", asked, false},
		{"/machine/probe/1", asked, false},
		{"/machine/probe/x/3", asked, false},
		{"/machine/probe/", asked, false},
	} {
		if got := p.answer(c.path, c.machine); got != c.want || number != 1 {
			t.Errorf("%s for stream %d: %v, want %v", c.path, number, got, c.want)
		}
	}
	if got := <-s.answers; got != 3 || len(s.answers) != 0 {
		t.Errorf("got the answer to probe %d and %d more, want only 3", got, len(s.answers))
	}
	p.remove(number)
	if p.answer("/machine/probe/1/5", asked) {
		t.Error("a stream that has ended accepts answers")
	}
}
