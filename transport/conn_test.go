package transport

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"ginnel/internal/simnet"
	"ginnel/key"
)

// Two nodes that know only each other's keys and relay begin over the relay at once and move to a
// direct path, through any NAT that lets them.
func TestRelayThenDirect(t *testing.T) {
	for _, c := range []struct {
		name   string
		a, b   simnet.NATKind
		direct bool
	}{
		{"public", simnet.None, simnet.None, true},
		{"easy and public", simnet.Easy, simnet.None, true},
		{"easy and easy", simnet.Easy, simnet.Easy, true},
		{"hard and public", simnet.Hard, simnet.None, true},
		{"hard and hard", simnet.Hard, simnet.Hard, false},
		{"blocked", simnet.Blocked, simnet.Easy, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.node("a", w.home(1, c.a)), w.node("b", w.home(2, c.b))
				w.introduce(a, b)
				a.send(b, "first")
				time.Sleep(2 * relayDelay)
				if got := b.take(); len(got) != 1 || got[0] != (arrival{"first", true}) {
					t.Fatalf("the first packet: got %+v, want it over the relay at once", got)
				}
				b.send(a, "answer") // as WireGuard's handshake would
				time.Sleep(time.Second)
				direct, relayed, lost := a.stream(b, 10*time.Second)
				if lost > 0 {
					t.Errorf("%d packets lost", lost)
				}
				if c.direct && (relayed > 0 || direct != 100) {
					t.Errorf("%d packets went directly and %d over the relay, want all directly", direct, relayed)
				}
				if !c.direct && (direct > 0 || relayed != 100) {
					t.Errorf("%d packets went directly and %d over the relay, want all over the relay", direct, relayed)
				}
				if p := a.path(b); p.Trusted != c.direct || c.direct && p.Latency == 0 {
					t.Errorf("path %+v", p)
				}
			})
		})
	}
}

// Nodes behind one NAT that does not hairpin find each other by their local addresses.
func TestSameNetwork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		nat := w.net.NewNAT(simnet.NATConfig{Kind: simnet.Easy, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}})
		a := w.node("a", w.net.NewHost(nat, netip.MustParseAddr("192.168.1.2")))
		b := w.node("b", w.net.NewHost(nat, netip.MustParseAddr("192.168.1.3")))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted || p.Direct.Addr() != netip.MustParseAddr("192.168.1.3") {
			t.Errorf("path %+v", p)
		}
	})
}

// Without any STUN server the addresses of the interfaces do.
func TestWithoutSTUN(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stun = nil
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted {
			t.Errorf("path %+v", p)
		}
	})
}

// When UDP is cut, packets go over the relay as well after at most a heartbeat and a second, and
// are back on UDP soon after it is restored.
func TestFallBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted {
			t.Fatalf("no direct path: %+v", p)
		}
		w.net.Cut(a.host, b.host)
		w.net.Cut(b.host, a.host)
		_, relayed, lost := a.stream(b, 20*time.Second)
		if limit := int((heartbeatInterval + suspectAfter + time.Second) / (100 * time.Millisecond)); lost > limit {
			t.Errorf("%d packets lost after the cut, want at most %d", lost, limit)
		}
		if relayed < 150 {
			t.Errorf("%d of 200 packets went over the relay", relayed)
		}
		if p := a.path(b); p.Trusted || p.Direct.IsValid() {
			t.Errorf("path %+v after 20 s without UDP", p)
		}
		w.net.Restore(a.host, b.host)
		w.net.Restore(b.host, a.host)
		if _, _, lost := a.stream(b, 15*time.Second); lost > 0 {
			t.Errorf("%d packets lost on the way back", lost)
		}
		if _, relayed, _ := a.stream(b, time.Second); relayed > 0 {
			t.Errorf("%d packets still went over the relay", relayed)
		}
	})
}

// The same bound holds when UDP is cut while nothing is sent, at any time between two heartbeats.
func TestFallBackAfterIdle(t *testing.T) {
	for pause := time.Duration(0); pause < 2*heartbeatInterval; pause += 700 * time.Millisecond {
		inWorld(t, func(t *testing.T, w *world) {
			a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
			w.introduce(a, b)
			a.stream(b, 3*time.Second)
			time.Sleep(10 * time.Second)
			if p := a.path(b); !p.Trusted {
				t.Fatalf("no direct path: %+v", p)
			}
			w.net.Cut(a.host, b.host)
			w.net.Cut(b.host, a.host)
			time.Sleep(pause)
			_, _, lost := a.stream(b, 10*time.Second)
			if limit := int((heartbeatInterval + suspectAfter + time.Second) / (100 * time.Millisecond)); lost > limit {
				t.Errorf("%v after the cut: %d packets lost, want at most %d", pause, lost, limit)
			}
		})
	}
}

// A node that moves to another network is found there: by its own word, or by the peer's search.
func TestRoaming(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		before := a.path(b).Direct
		nat := w.net.NewNAT(simnet.NATConfig{Kind: simnet.Easy, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.99")}})
		b.host.Move(nat, netip.MustParseAddr("10.9.9.9"))
		b.c.NetworkChanged()
		b.send(a, "here")
		a.stream(b, 10*time.Second)
		p := a.path(b)
		if !p.Trusted || p.Direct == before || p.Direct.Addr() != netip.MustParseAddr("203.0.113.99") {
			t.Errorf("path %+v after moving, before it was %v", p, before)
		}
		if _, relayed, lost := a.stream(b, time.Second); relayed > 0 || lost > 0 {
			t.Errorf("%d packets over the relay and %d lost", relayed, lost)
		}
	})
}

// A peer that restarted has another disco key; traffic goes over the relay until the map says so,
// and directly after.
func TestRestartedPeer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		old := b.key
		b.c.Close()
		again := w.node("b", b.host, func(c *Config) { c.NodeKey = old; c.Relay = relayTo{w, old} })
		again.key = old
		w.mu.Lock()
		w.nodes[old] = again
		w.mu.Unlock()
		w.introduce(a, again)
		if _, _, lost := a.stream(again, 3*time.Second); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
		if p := a.path(again); !p.Trusted {
			t.Errorf("path %+v", p)
		}
	})
}

// "Idle": no heartbeats, no STUN, nothing.
func TestIdleIsSilent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		time.Sleep(5 * time.Minute)
		before := w.net.Stats().Sent
		time.Sleep(time.Hour)
		if sent := w.net.Stats().Sent - before; sent != 0 {
			t.Errorf("%d datagrams in an hour of idleness", sent)
		}
		if _, _, lost := a.stream(b, 3*time.Second); lost > 0 {
			t.Errorf("%d packets lost after the pause", lost)
		}
	})
}

func TestPing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		r, err := a.c.Ping(t.Context(), b.key)
		if err != nil || r.Addr.IsValid() || r.Region != 1 || r.Latency != 2*relayDelay {
			t.Errorf("first ping: %+v, %v, want over the relay", r, err)
		}
		time.Sleep(2 * time.Second)
		r, err = a.c.Ping(t.Context(), b.key)
		if err != nil || !r.Addr.IsValid() || r.Latency != 20*time.Millisecond {
			t.Errorf("second ping: %+v, %v, want direct in 20 ms", r, err)
		}
		if _, err := a.c.Ping(t.Context(), key.NewNodePrivate().Public()); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("ping of a stranger: %v", err)
		}
		b.c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.c.Ping(ctx, b.key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping of a dead peer: %v", err)
		}
	})
}

// Watch shows the change from relay to direct without being asked again.
func TestWatch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a.send(b, "go")
		seen := false
		for s := range a.c.Watch(ctx) {
			if s.Peers[b.key].Trusted {
				seen = true
				break
			}
		}
		if !seen {
			t.Error("the direct path was never shown")
		}
		for range a.c.Watch(t.Context()) {
			a.c.Close() // ends the iteration
		}
	})
}

// WatchAddressSends tells of the first send to an address after each call, and of no other send.
func TestWatchAddressSends(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		plain := &address{netip.MustParseAddrPort("192.0.2.1:51820")}
		told := func(sentc <-chan struct{}) bool {
			select {
			case <-sentc:
				return true
			default:
				return false
			}
		}
		for range 2 {
			sentc := a.c.WatchAddressSends()
			a.send(b, "to a peer")
			if told(sentc) {
				t.Error("told of a send to a peer that takes part in discovery")
			}
			a.c.Send(0, [][]byte{{4}}, plain)
			if !told(sentc) {
				t.Error("not told of a send")
			}
			a.c.Send(0, [][]byte{{4}}, plain)
			if told(sentc) {
				t.Error("told of a second send")
			}
		}
	})
}
