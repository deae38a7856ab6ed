package server

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// Section 4.5: who is told that a peer is gone.
func TestServerPeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, b, c := r.Client(), r.Client(), r.Client()
		a.Send(b.Public(), "hello")
		b.WantPacket(a.Public(), "hello")
		a.Conn.Close()
		b.WantGone(a.Public(), derp.GoneDisconnected)
		c.WantIdle() // never heard of a

		// It comes back, sends and leaves again: told again, unlike by the reference.
		a = r.ClientWithKey(a.Key)
		a.Send(b.Public(), "again")
		b.WantPacket(a.Public(), "again")
		a.Conn.Close()
		b.WantGone(a.Public(), derp.GoneDisconnected)
		b.WantIdle()

		// A receiver that has left is not held by its sources.
		a = r.Client()
		a.Send(b.Public(), "x")
		b.WantPacket(a.Public(), "x")
		b.Conn.Close()
		synctest.Wait()
		r.registry.mu.Lock()
		if n := len(r.registry.peers[a.Public()].receivers); n != 0 {
			t.Errorf("%d receivers left", n)
		}
		r.registry.mu.Unlock()
		a.Conn.Close()
	})
}

// "NotHere is sent only if the dropped packet is disco-looking, and limited ...: burst 3, refill 1
// per second" (4.5).
func TestServerNotHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a := r.Client()
		nobody := key.NewNodePrivate().Public()
		disco := derp.DiscoMagic + strings.Repeat("x", 56)
		a.Send(nobody, "data")
		a.Send(nobody, disco[:derp.DiscoMinSize-1])
		a.WantIdle()
		for i := range 5 {
			a.Send(nobody, disco)
			if i < 3 {
				a.WantGone(nobody, derp.GoneNotHere)
			} else {
				a.WantIdle()
			}
		}
		time.Sleep(time.Second)
		a.Send(nobody, disco)
		a.WantGone(nobody, derp.GoneNotHere)
		a.Send(nobody, disco)
		a.WantIdle()
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="disco",reason="unknown_dest"}`, 7)
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="other",reason="unknown_dest"}`, 2)
		r.wantMetric(t, `ginnel_relay_peer_gone_frames_total{reason="not_here"}`, 4)
	})
}

// Section 4.6: of several connections with one key, the one that sent the latest frame gets the
// packets.
func TestServerDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{MeshKey: testMeshKey})
		a, first := r.Client(), r.Client()
		watcher := r.MeshClient()
		watcher.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		for range 3 {
			watcher.WantPresent()
		}
		first.Send(a.Public(), "from the first")
		a.WantPacket(first.Public(), "from the first")

		second := r.ClientWithKey(first.Key)
		if got := watcher.WantPresent(); got.Peer != first.Public() { // "watchers get a PeerPresent again"
			t.Errorf("watcher is told of %+v", got)
		}
		a.Send(first.Public(), "1")
		second.WantPacket(a.Public(), "1") // "the new one becomes active"
		first.Write(derp.AppendNotePreferred(nil, derp.IsHome))
		first.Ping() // "any frame ... from a connection of the set: that connection becomes active"
		a.Send(first.Public(), "2")
		first.WantPacket(a.Public(), "2")
		second.Ping() // "non-active ones still get ... Pong", and by asking it becomes active
		third := r.ClientWithKey(first.Key)
		watcher.WantPresent()
		a.Send(first.Public(), "3")
		third.WantPacket(a.Public(), "3")
		r.wantMetric(t, "ginnel_relay_duplicate_clients", 1)
		third.Conn.Close() // "active one leaves: the connection that was active before"
		synctest.Wait()
		a.Send(first.Public(), "4")
		second.WantPacket(a.Public(), "4")
		second.Conn.Close()
		synctest.Wait()
		a.Send(first.Public(), "5")
		first.WantPacket(a.Public(), "5")
		a.WantIdle() // "a non-last one leaves: no PeerGone to anybody"
		watcher.WantIdle()
		r.wantMetric(t, "ginnel_relay_duplicate_clients", 0)
		first.Conn.Close()
		a.WantGone(first.Public(), derp.GoneDisconnected)
		watcher.WantGone(first.Public(), derp.GoneDisconnected)
	})
}

func TestServerSelfSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a := r.Client()
		a.Send(a.Public(), "to myself")
		a.WantPacket(a.Public(), "to myself")
	})
}
