package relay

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

func TestServerPeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, b, c := r.client(), r.client(), r.client()
		a.send(b.public(), "hello")
		b.wantPacket(a.public(), "hello")
		a.conn.Close()
		b.wantGone(a.public(), goneDisconnected)
		c.wantIdle() // never heard of a

		// It comes back, sends and leaves again: told again, unlike by the reference.
		a = r.clientWithKey(a.key)
		a.send(b.public(), "again")
		b.wantPacket(a.public(), "again")
		a.conn.Close()
		b.wantGone(a.public(), goneDisconnected)
		b.wantIdle()

		// A receiver that has left is not held by its sources.
		a = r.client()
		a.send(b.public(), "x")
		b.wantPacket(a.public(), "x")
		b.conn.Close()
		synctest.Wait()
		r.registry.mu.Lock()
		if n := len(r.registry.peers[a.public()].receivers); n != 0 {
			t.Errorf("%d receivers left", n)
		}
		r.registry.mu.Unlock()
		a.conn.Close()
	})
}

func TestServerNotHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a := r.client()
		nobody := key.NewNodePrivate().Public()
		disco := discoMagic + strings.Repeat("x", 56)
		a.send(nobody, "data")
		a.send(nobody, disco[:discoMinSize-1])
		a.wantIdle()
		for i := range 5 {
			a.send(nobody, disco)
			if i < 3 {
				a.wantGone(nobody, goneNotHere)
			} else {
				a.wantIdle()
			}
		}
		time.Sleep(time.Second)
		a.send(nobody, disco)
		a.wantGone(nobody, goneNotHere)
		a.send(nobody, disco)
		a.wantIdle()
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="disco",reason="unknown_dest"}`, 7)
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="other",reason="unknown_dest"}`, 2)
		r.wantMetric(t, `ginnel_relay_peer_gone_frames_total{reason="not_here"}`, 4)
	})
}

func TestServerDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{MeshKey: testMeshKey})
		a, first := r.client(), r.client()
		watcher := r.meshClient()
		watcher.write(appendHeader(nil, frameWatchConns, 0))
		for range 3 {
			watcher.wantPresent()
		}
		first.send(a.public(), "from the first")
		a.wantPacket(first.public(), "from the first")

		second := r.clientWithKey(first.key)
		if got := watcher.wantPresent(); got.peer != first.public() { // "watchers get a PeerPresent again"
			t.Errorf("watcher is told of %+v", got)
		}
		a.send(first.public(), "1")
		second.wantPacket(a.public(), "1") // "the new one becomes active"
		first.write(appendNotePreferred(nil, isHome))
		first.ping() // "any frame ... from a connection of the set: that connection becomes active"
		a.send(first.public(), "2")
		first.wantPacket(a.public(), "2")
		second.ping() // "non-active ones still get ... Pong", and by asking it becomes active
		third := r.clientWithKey(first.key)
		watcher.wantPresent()
		a.send(first.public(), "3")
		third.wantPacket(a.public(), "3")
		r.wantMetric(t, "ginnel_relay_duplicate_clients", 1)
		third.conn.Close() // "active one leaves: the connection that was active before"
		synctest.Wait()
		a.send(first.public(), "4")
		second.wantPacket(a.public(), "4")
		second.conn.Close()
		synctest.Wait()
		a.send(first.public(), "5")
		first.wantPacket(a.public(), "5")
		a.wantIdle() // "a non-last one leaves: no PeerGone to anybody"
		watcher.wantIdle()
		r.wantMetric(t, "ginnel_relay_duplicate_clients", 0)
		first.conn.Close()
		a.wantGone(first.public(), goneDisconnected)
		watcher.wantGone(first.public(), goneDisconnected)
	})
}

func TestServerSelfSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a := r.client()
		a.send(a.public(), "to myself")
		a.wantPacket(a.public(), "to myself")
	})
}
