package transport

import (
	"slices"
	"sync"
	"testing"
	"time"

	"ginnel/internal/simnet"
)

func handshakeMessage(kind byte, size int) []byte {
	b := make([]byte, size)
	b[0] = kind
	return b
}

// The second of two messages of a handshake that come together waits until WireGuard is done with the first; what comes
// before does not, and what follows keeps its place.
func TestCrossingHandshakes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		initiation, response := handshakeMessage(wireGuardInitiation, initiationLen), handshakeMessage(wireGuardResponse, responseLen)
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			b.c.HandleRelayed(1, a.key, [][]byte{packet("before"), initiation, response, packet("after")})
		})
		time.Sleep(handshakeTime / 2)
		if got := b.take(); len(got) != 2 || got[0].text != "before" || len(got[1].text) != initiationLen-dataHeader {
			t.Errorf("at first got %v", got)
		}
		if !b.c.InHandshake(a.key) || a.c.InHandshake(b.key) {
			t.Error("not where the messages came is there a handshake")
		}
		wg.Wait()
		if took := time.Since(began); took != handshakeTime {
			t.Errorf("the response was held for %v, want %v", took, handshakeTime)
		}
		time.Sleep(time.Millisecond)
		if got := b.take(); len(got) != 2 || len(got[0].text) != responseLen-dataHeader || got[1].text != "after" {
			t.Errorf("then got %v", got)
		}
		time.Sleep(handshakeTime)
		if b.c.InHandshake(a.key) {
			t.Error("the handshake has no end")
		}
	})
}

// A peer that sends handshakes all the time holds up its relay for a fiftieth of the time at most.
func TestHandshakesHeld(t *testing.T) {
	var h handshakes
	now := time.Unix(1000, 0)
	var waits []time.Duration
	var total time.Duration
	for end := now.Add(10 * time.Second); now.Before(end); now = now.Add(time.Millisecond) {
		wait := h.next(now)
		if wait > 0 {
			waits = append(waits, wait)
		}
		total += wait
		now = now.Add(wait)
	}
	if len(waits) == 0 || len(waits) > 10 || total > 10*handshakeTime {
		t.Errorf("held for %v in 10 s", waits)
	}
	if slices.Max(waits) > handshakeTime {
		t.Errorf("held for up to %v", slices.Max(waits))
	}
	if wait := h.next(now.Add(-time.Hour)); wait != 0 {
		t.Errorf("held for %v after the clock was set back", wait)
	}
}

func TestIsHandshake(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want bool
	}{
		{handshakeMessage(1, 148), true}, {handshakeMessage(2, 92), true}, {handshakeMessage(1, 92), false}, {handshakeMessage(2, 148), false},
		{handshakeMessage(3, 64), false}, {handshakeMessage(4, 148), false}, {nil, false},
	} {
		if got := isHandshake(c.b); got != c.want {
			t.Errorf("type %v of %d bytes: got %v", c.b[:min(1, len(c.b))], len(c.b), got)
		}
	}
}
