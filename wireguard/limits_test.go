package wireguard

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

// replayWindow is the size of the replay window: how far a counter may be behind the greatest one.
const replayWindow = 8128

// matchingKeypairs returns both keypairs of a handshake.
func matchingKeypairs(tb testing.TB) (initiator, responder *keypair) {
	a, b := twoSides([key.Size]byte{})
	i, m := a.initiate(tb, 1)
	responder, response := b.respond(tb, m, 2)
	initiator, err := i.consumeResponse(response, 1)
	if err != nil {
		tb.Fatal(err)
	}
	return initiator, responder
}

// Section 5.4.6: each counter is accepted once, and only if it is inside the window.
func TestReplayWindow(t *testing.T) {
	type step struct {
		counter uint64
		want    bool
	}
	const last = rejectAfterMessages - 1 // the greatest counter
	for name, steps := range map[string][]step{
		"first counter":     {{0, true}, {0, false}, {1, true}, {0, false}},
		"in reverse":        {{3, true}, {2, true}, {1, true}, {0, true}, {2, false}},
		"window size - 1":   {{replayWindow - 1, true}, {0, true}, {0, false}},
		"window size":       {{replayWindow, true}, {0, true}, {0, false}},
		"window size + 1":   {{replayWindow + 1, true}, {0, false}, {1, true}, {1, false}},
		"sliding by one":    {{0, true}, {replayWindow, true}, {0, false}, {replayWindow + 1, true}, {1, true}},
		"sliding by blocks": {{100, true}, {100 + 64*3, true}, {100, false}, {101, true}, {100 + 64*3, false}},
		"whole ring skipped": {
			{5, true}, {5 + 3*8192, true}, {5, false}, {5 + 3*8192 - 8192, false}, {5 + 2*8192 + 64, true},
		},
		"far ahead": {
			{0, true}, {1 << 60, true}, {0, false}, {1<<60 - replayWindow, true}, {1<<60 - replayWindow - 1, false},
		},
		"greatest counter": {
			{last, true}, {last, false}, {last - replayWindow, true}, {last - replayWindow - 1, false}, {0, false},
		},
		"beyond the greatest": {{last + 1, false}, {1<<64 - 1, false}, {0, true}, {last, true}, {last + 1, false}},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := matchingKeypairs(t)
			for i, s := range steps {
				if _, ok := to.open(sealed(from, s.counter, []byte("x")), new(nonce)); ok != s.want {
					t.Errorf("step %d: counter %d accepted: %v, want %v", i, s.counter, ok, s.want)
				}
			}
		})
	}
}

// The replay window agrees with a set of all accepted counters.
func TestReplayWindowAgainstSet(t *testing.T) {
	from, to := matchingKeypairs(t)
	seen, greatest := make(map[uint64]bool), uint64(0)
	for i := range 20_000 {
		var b [4]byte
		rand.Read(b[:])
		counter := uint64(i)*3 + uint64(binary.LittleEndian.Uint16(b[:]))%(2*replayWindow)
		want := !seen[counter] && (counter > greatest || greatest-counter <= replayWindow)
		_, got := to.open(sealed(from, counter, nil), new(nonce))
		if got != want {
			t.Fatalf("message %d: counter %d with greatest %d accepted: %v, want %v", i, counter, greatest, got, want)
		}
		seen[counter], greatest = true, max(greatest, counter)
	}
}

// A forged message does not move the replay window, however far ahead its counter is.
func TestForgedCounter(t *testing.T) {
	from, to := matchingKeypairs(t)
	genuine := sealed(from, 0, nil)
	for _, counter := range []uint64{1, replayWindow + 1, 1 << 60, rejectAfterMessages - 1} {
		forged := slices.Clone(genuine)
		binary.LittleEndian.PutUint64(forged[transportCounter:], counter)
		if _, ok := to.open(forged, new(nonce)); ok {
			t.Errorf("a message with its counter changed to %d is accepted", counter)
		}
	}
	if _, ok := to.open(genuine, new(nonce)); !ok {
		t.Error("the genuine message is refused after forged ones")
	}
}

// Counters are reserved up to Reject-After-Messages and never beyond. The keypair is then closed.
func TestReserveCounters(t *testing.T) {
	for _, c := range []struct {
		next  uint64
		n     int
		want  bool
		after bool // the keypair can still send
	}{
		{0, 1, true, true},
		{rejectAfterMessages - 3, 2, true, true},
		{rejectAfterMessages - 3, 3, true, false},
		{rejectAfterMessages - 3, 4, false, false},
		{rejectAfterMessages - 1, 1, true, false},
		{rejectAfterMessages, 1, false, false},
		{1<<64 - 1, 1, false, false},
		{1<<64 - 1, 5, false, false},
	} {
		k, _ := matchingKeypairs(t)
		k.sendCounter.Store(c.next)
		first, ok := k.reserveCounters(c.n)
		if ok != c.want || ok && first != c.next {
			t.Errorf("%d counters from %d: got %d, %v, want %v", c.n, c.next, first, ok, c.want)
		}
		if k.canSend(1) != c.after {
			t.Errorf("%d counters from %d: the keypair can send: %v, want %v", c.n, c.next, k.canSend(1), c.after)
		}
		if first, ok := k.reserveCounters(1); ok && !c.after {
			t.Errorf("%d counters from %d: then got counter %d", c.n, c.next, first)
		}
	}
}

// A closed keypair receives but does not send. A dropped one does neither, and cannot be closed.
func TestKeypairStates(t *testing.T) {
	k, _ := matchingKeypairs(t)
	check := func(state string, send, receive bool) {
		t.Helper()
		if k.canSend(1) != send || k.canReceive(1) != receive {
			t.Errorf("%s keypair: sends %v, receives %v; want %v, %v", state, k.canSend(1), k.canReceive(1), send, receive)
		}
	}
	check("open", true, true)
	k.close()
	check("closed", false, true)
	newHost(t, 1).dropKeypair(k)
	check("dropped", false, false)
	k.close()
	check("dropped", false, false)
}

// setCounter sets the next counter of h's current keypair with o.
func setCounter(t *testing.T, h, o *host, counter uint64) {
	t.Helper()
	synctest.Wait()
	p, _ := h.peer(o.key.Public())
	k := p.current.Load()
	if k == nil {
		t.Fatal("no current keypair")
	}
	k.sendCounter.Store(counter)
}

// The message that uses up Rekey-After-Messages starts a handshake on either side, and the one
// before it does not. No packet is lost.
func TestRekeyAfterMessages(t *testing.T) {
	for _, initiator := range []bool{true, false} {
		t.Run(fmt.Sprint("initiator ", initiator), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPair(t)
				a.sendText(b, "hello")
				wantTexts(t, b, "hello")
				from, to := a, b
				if !initiator {
					from, to = b, a
				}
				time.Sleep(time.Duration(rekeyTimeout)) // until then no side starts another handshake
				initiations := from.count(typeInitiation)
				setCounter(t, from, to, rekeyAfterMessages-2)
				from.sendText(to, "one before")
				wantTexts(t, to, "one before")
				if n := initiations.n(); n != 0 {
					t.Errorf("got %d initiations before Rekey-After-Messages, want none", n)
				}
				from.sendText(to, "last")
				wantTexts(t, to, "last")
				if n := initiations.n(); n != 1 {
					t.Errorf("got %d initiations at Rekey-After-Messages, want 1", n)
				}
				from.sendText(to, "new keypair")
				wantTexts(t, to, "new keypair")
				if n := initiations.n(); n != 1 {
					t.Errorf("got %d initiations after the new handshake, want 1", n)
				}
			})
		})
	}
}

// The message with the last counter below Reject-After-Messages is sent and accepted. The next
// packet is staged until there is a new keypair.
func TestRejectAfterMessages(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "hello")
		wantTexts(t, b, "hello")
		setCounter(t, a, b, rejectAfterMessages-1)
		time.Sleep(retryInterval)
		sent := a.count(typeTransport)
		b.lose(typeResponse, 1)
		a.sendText(b, "last counter")
		wantTexts(t, b, "last counter")
		a.sendText(b, "staged")
		wantTexts(t, b)
		if n := sent.n(); n != 1 {
			t.Errorf("sent %d messages, want 1: the keypair is used up", n)
		}
		b.sendText(a, "under the old keypair")
		wantTexts(t, a, "under the old keypair")
		time.Sleep(time.Duration(2*rekeyTimeout + maxJitter))
		wantTexts(t, b, "staged")
	})
}

// Two initiations in one tick of the TAI64N timestamps have the same timestamp, and the second one
// is a replay to the peer. Retransmission completes the handshake.
func TestTwoInitiationsInOneTick(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		first := a.intercept(typeInitiation)
		a.StartHandshake(b.key.Public())
		synctest.Wait()
		second := a.intercept(typeInitiation)
		a.StartHandshake(b.key.Public())
		synctest.Wait()
		a.port.filter(nil)
		responses := b.count(typeResponse)
		b.port.deliver(*first, a.port)
		if n := responses.n(); n != 1 {
			t.Fatalf("got %d responses to the first initiation, want 1", n)
		}
		time.Sleep(retryInterval)
		b.port.deliver(*second, a.port)
		if n := responses.n(); n != 1 {
			t.Errorf("got %d responses after the second initiation, want 1", n)
		}
		a.sendText(b, "x")
		time.Sleep(time.Duration(rekeyTimeout + maxJitter))
		wantTexts(t, b, "x")
	})
}

// The timestamp decides, not the arrival: of two initiations the older one is refused when it comes
// second, and one tick is enough to tell them apart.
func TestInitiationTimestamps(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newHost(t, 1), newHost(t, 2)
		b.SetPeer(a.asPeer())
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		s := &side{k: a.key, id: newIdentity(a.key), peer: newPeer(b.key.Public())}
		s.peer.psk.Store(new([key.Size]byte))
		responses := b.count(typeResponse)
		const tick = 1 << 24 // nanoseconds: the resolution of tai64n.Now
		base := tai64n.Now()
		for _, c := range []struct {
			ticks int
			want  int // responses so far
		}{{5, 1}, {5, 1}, {4, 1}, {0, 1}, {6, 2}, {6, 2}, {5, 2}, {7, 3}} {
			stamp := base
			binary.BigEndian.PutUint32(stamp[8:], binary.BigEndian.Uint32(base[8:])+uint32(c.ticks*tick))
			_, m, err := s.id.createInitiation(s.peer, 1, newEphemeral(), stamp)
			if err != nil {
				t.Fatal(err)
			}
			b.port.deliver(withMAC1(m, b.key.Public()), a.port)
			if n := responses.n(); n != c.want {
				t.Errorf("timestamp of tick %d: got %d responses so far, want %d", c.ticks, n, c.want)
			}
			time.Sleep(retryInterval)
		}
	})
}

// repeatingRandom returns each 4-byte value several times.
type repeatingRandom struct {
	times int
	reads int
}

func (r *repeatingRandom) Read(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, io.ErrUnexpectedEOF
	}
	binary.LittleEndian.PutUint32(b, uint32(r.reads/r.times)<<8)
	r.reads++
	return len(b), nil
}

// A receiver index that is in use is not given out again, whatever it refers to.
func TestIndexCollision(t *testing.T) {
	h, o := newHost(t, 1), newHost(t, 2)
	h.SetPeer(o.asPeer())
	p, _ := h.peer(o.key.Public())
	before := rand.Reader
	rand.Reader = &repeatingRandom{times: 3}
	defer func() { rand.Reader = before }()
	k := &keypair{peer: p}
	entries := []indexEntry{{peer: p}, {keypair: k}, {}, {peer: p}}
	var got []uint32
	for _, e := range entries {
		got = append(got, h.newIndex(p, e))
	}
	if want := []uint32{0 << 8, 1 << 8, 2 << 8, 3 << 8}; !slices.Equal(got, want) {
		t.Errorf("got indices %#x, want %#x", got, want)
	}
	for i, e := range entries {
		if h.indices.get(got[i]) != e {
			t.Errorf("index %#x was taken over by another entry", got[i])
		}
	}
	h.indices.remove(got[1], indexEntry{peer: p}) // not what the index refers to
	if h.indices.get(got[1]) != entries[1] {
		t.Error("an index was removed on behalf of another entry")
	}
}

// Two peers may choose the same sender index, because indices only have to be unique on one side.
func TestEqualSenderIndices(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHost(t, 1)
		if err := h.Up(); err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			o := newHost(t, 2+n)
			h.SetPeer(o.asPeer())
			s := &side{k: o.key, id: newIdentity(o.key), peer: newPeer(h.key.Public())}
			s.peer.psk.Store(new([key.Size]byte))
			i, m := s.initiate(t, 77)
			response := h.intercept(typeResponse)
			h.port.deliver(withMAC1(m, h.key.Public()), o.port)
			synctest.Wait()
			k, err := i.consumeResponse(*response, 1)
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint("from peer ", n)
			h.port.deliver(sealed(k, 0, packet(o.addr, h.addr, text)), o.port)
			wantTexts(t, h, text)
		}
	})
}

// A message under the receiver index of another peer's keypair is refused, and changes the state of
// neither peer. The same holds for a response.
func TestForeignReceiverIndex(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newHost(t, 1)
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		peers := newPeersOf(t, a, 2, 2)
		b, c := peers[0], peers[1]
		b.sendText(a, "from b")
		c.sendText(a, "from c")
		synctest.Wait()
		a.tun.take()
		held := b.intercept(typeTransport)
		b.sendText(a, "x")
		synctest.Wait()
		p, _ := a.peer(c.key.Public())
		m := slices.Clone(*held)
		binary.LittleEndian.PutUint32(m[transportReceiver:], p.current.Load().localIndex)
		beforeB := snapshotOf(t, a, b)
		wantRefused(t, a, c, [][]byte{m})
		if snapshotOf(t, a, b) != beforeB {
			t.Error("the state of the sender changed")
		}

		time.Sleep(retryInterval)
		a.port.deliver(*held, b.port)
		wantTexts(t, a, "x")
		responseB, responseC := b.intercept(typeResponse), c.intercept(typeResponse)
		a.StartHandshake(b.key.Public())
		a.StartHandshake(c.key.Public())
		synctest.Wait()
		swapped := slices.Clone(*responseB)
		copy(swapped[responseReceiver:responseEphemeral], (*responseC)[responseReceiver:responseEphemeral])
		wantRefused(t, a, c, [][]byte{withMAC1(swapped, a.key.Public())})
		for _, h := range []struct {
			peer     *host
			response []byte
		}{{b, *responseB}, {c, *responseC}} {
			a.port.deliver(h.response, h.peer.port)
			a.sendText(h.peer, "after")
			wantTexts(t, h.peer, "after")
		}
	})
}
