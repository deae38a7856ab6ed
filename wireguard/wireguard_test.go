package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
)

// retryInterval is long enough for a peer to answer the next initiation (minInitiationInterval).
const retryInterval = 50 * time.Millisecond

// inBubble runs f in a synctest bubble: time advances when all goroutines wait.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func wantTexts(t *testing.T, h *host, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := h.tun.take(); !slices.Equal(got, want) {
		t.Errorf("%s received %q, want %q", h.port.name, got, want)
	}
}

// Packets of both address families and all sizes arrive unchanged and in order, and the byte
// counters of both sides agree.
func TestExchange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
		for _, h := range []struct {
			of, at *host
			addr   netip.Addr
		}{{a, b, a6}, {b, a, b6}} {
			p := h.of.asPeer()
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(h.addr, 128))
			h.at.SetPeer(p)
		}
		var want []string
		for n := 0; n <= 1380; n += 23 {
			text := strings.Repeat("x", n)
			a.sendText(b, text)
			a.tun.send(packet(a6, b6, text))
			want = append(want, text, text)
		}
		wantTexts(t, b, want...)
		b.sendText(a, "answer")
		wantTexts(t, a, "answer")
		at, _ := a.PeerState(b.key.Public())
		bt, _ := b.PeerState(a.key.Public())
		if at.Tx != bt.Rx || at.Rx != bt.Tx || at.Rx == 0 || at.Endpoint != "host2" || at.Handshake.IsZero() {
			t.Errorf("peer states are %+v and %+v", at, bt)
		}
	})
}

// Without the same preshared key on both sides there is no handshake.
func TestPresharedKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		psk := key.PresharedFromRaw([key.Size]byte{1, 2, 3})
		p := b.asPeer()
		p.PresharedKey = psk
		a.SetPeer(p)
		a.sendText(b, "lost")
		wantTexts(t, b)
		q := a.asPeer()
		q.PresharedKey = psk
		b.SetPeer(q)
		time.Sleep(retryInterval)
		a.StartHandshake(b.key.Public())
		wantTexts(t, b, "lost")
	})
}

// While there is traffic, each keypair is replaced by the next one without losing a packet.
func TestRekey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		initiations, responses := a.count(typeInitiation), b.count(typeResponse)
		for i := range 1200 {
			a.sendText(b, fmt.Sprint("to b ", i))
			wantTexts(t, b, fmt.Sprint("to b ", i))
			if i%3 == 0 {
				b.sendText(a, fmt.Sprint("to a ", i))
				wantTexts(t, a, fmt.Sprint("to a ", i))
			}
			time.Sleep(time.Second)
		}
		if initiations.n() != 10 || responses.n() != 10 {
			t.Errorf("got %d initiations and %d responses in 20 minutes, want 10", initiations.n(), responses.n())
		}
	})
}

// An initiator that only receives starts the next handshake before the keypair ends.
func TestReceiverRekeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		b.sendText(a, "hello") // b is the initiator
		wantTexts(t, a, "hello")
		for i := range 600 {
			a.sendText(b, fmt.Sprint(i))
			wantTexts(t, b, fmt.Sprint(i))
			time.Sleep(time.Second)
		}
	})
}

// When both sides initiate a handshake at the same moment, the packets of both arrive, every time.
func TestSimultaneousInitiations(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		for i := range 20 {
			a.StartHandshake(b.key.Public())
			b.StartHandshake(a.key.Public())
			a.sendText(b, fmt.Sprint("to b ", i))
			b.sendText(a, fmt.Sprint("to a ", i))
			wantTexts(t, b, fmt.Sprint("to b ", i))
			wantTexts(t, a, fmt.Sprint("to a ", i))
			time.Sleep(time.Second)
		}
	})
}

// After the loss of a handshake message, another initiation follows after Rekey-Timeout and jitter.
// Staged packets are sent then.
func TestHandshakeLoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.lose(typeInitiation, 2)
		a.sendText(b, "one")
		time.Sleep(9 * time.Second)
		wantTexts(t, b)
		time.Sleep(2 * time.Second)
		wantTexts(t, b, "one")
		b.lose(typeResponse, 1)
		a.StartHandshake(b.key.Public())
		a.sendText(b, "two")
		wantTexts(t, b)
		time.Sleep(6 * time.Second)
		wantTexts(t, b, "two")
	})
}

// After Rekey-Attempt-Time without a response the handshake is given up and the staged packets are
// dropped. The next packet starts a new handshake.
func TestGiveUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.lose(typeInitiation, 1000)
		initiations := a.count(typeInitiation)
		for i := range 2 * maxStaged {
			a.sendText(b, fmt.Sprint(i))
		}
		time.Sleep(10 * time.Minute)
		if initiations.n() != maxAttempts {
			t.Errorf("got %d initiations, want %d", initiations.n(), maxAttempts)
		}
		a.port.filter(nil)
		a.sendText(b, "again")
		wantTexts(t, b, "again")
	})
}

// The newest staged packets are kept; the others are counted as dropped.
func TestStaged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.lose(typeInitiation, 1)
		var want []string
		for i := range 2 * maxStaged {
			a.sendText(b, fmt.Sprint(i))
			if i >= maxStaged {
				want = append(want, fmt.Sprint(i))
			}
		}
		time.Sleep(6 * time.Second)
		wantTexts(t, b, want...)
		if n := a.Dropped().NoRoom; n != maxStaged {
			t.Errorf("got %d packets counted as dropped, want %d", n, maxStaged)
		}
	})
}

// A late message is accepted, and a message that arrives twice is accepted once.
func TestReplay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "first")
		wantTexts(t, b, "first")
		var held []byte
		a.port.filter(func(m []byte, to *port) bool {
			if messageType(m) == typeTransport && held == nil {
				held = slices.Clone(m)
				return false
			}
			to.deliver(m, a.port)
			return true
		})
		a.sendText(b, "late")
		a.sendText(b, "twice")
		wantTexts(t, b, "twice")
		b.port.deliver(held, a.port)
		b.port.deliver(held, a.port)
		wantTexts(t, b, "late")
		if n := b.Dropped().Bogus; n < 2 {
			t.Errorf("got %d messages dropped, want at least 2", n)
		}
	})
}

// A replayed initiation is not answered.
func TestReplayedInitiation(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		var seen []byte
		a.port.filter(func(m []byte, _ *port) bool {
			if messageType(m) == typeInitiation {
				seen = slices.Clone(m)
			}
			return true
		})
		a.sendText(b, "x")
		wantTexts(t, b, "x")
		responses := b.count(typeResponse)
		time.Sleep(time.Minute)
		b.port.deliver(seen, a.port)
		synctest.Wait()
		if responses.n() != 0 {
			t.Error("a replayed initiation was answered")
		}
		a.sendText(b, "y")
		wantTexts(t, b, "y")
	})
}

// A side that only receives sends a keepalive after Keepalive-Timeout. A side that gets nothing
// back starts a handshake after Keepalive-Timeout + Rekey-Timeout.
func TestPassiveTimers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "x")
		wantTexts(t, b, "x")
		keepalives := b.count(typeTransport)
		time.Sleep(9 * time.Second)
		if keepalives.n() != 0 {
			t.Error("a keepalive was sent too early")
		}
		time.Sleep(2 * time.Second)
		if keepalives.n() != 1 {
			t.Errorf("got %d keepalives, want 1", keepalives.n())
		}
		time.Sleep(time.Minute)
		if keepalives.n() != 1 {
			t.Errorf("got %d keepalives after another minute without packets, want 1", keepalives.n())
		}
		b.lose(typeTransport, 1000)
		initiations := a.count(typeInitiation)
		a.sendText(b, "y")
		time.Sleep(14 * time.Second)
		if initiations.n() != 0 {
			t.Error("an initiation was sent too early")
		}
		time.Sleep(2 * time.Second)
		if initiations.n() != 1 {
			t.Errorf("got %d initiations after nothing came back, want 1", initiations.n())
		}
	})
}

// A persistent keepalive starts a handshake at once, and then sends a message per interval.
func TestPersistentKeepalive(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		sent := a.count(typeTransport)
		p := b.asPeer()
		p.Keepalive = 25 * time.Second
		a.SetPeer(p)
		synctest.Wait()
		if a.handshakeAge(b) < 0 || sent.n() != 1 {
			t.Fatalf("no handshake, or %d messages instead of 1", sent.n())
		}
		time.Sleep(10*time.Minute + time.Second)
		if sent.n() < 24 || sent.n() > 32 {
			t.Errorf("got %d messages in 10 minutes, want 24 and one per handshake", sent.n())
		}
	})
}

// Unused keypairs are dropped and their receiver indices freed.
func TestZeroKeyMaterial(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		for range 3 {
			a.sendText(b, "x")
			wantTexts(t, b, "x")
			time.Sleep(retryInterval)
			a.StartHandshake(b.key.Public())
			time.Sleep(retryInterval)
		}
		for _, h := range []*host{a, b} {
			if n := len(h.indices.all()); n < 1 || n > 3 {
				t.Errorf("got %d receiver indices in use, want 1 to 3", n)
			}
		}
		time.Sleep(10 * time.Minute)
		for _, h := range []*host{a, b} {
			if n := len(h.indices.all()); n != 0 {
				t.Errorf("%s: got %d receiver indices in use after 10 minutes, want none", h.port.name, n)
			}
		}
		a.sendText(b, "y")
		wantTexts(t, b, "y")
	})
}

// A message under a keypair older than Reject-After-Time is dropped.
func TestRejectAfterTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "x")
		wantTexts(t, b, "x")
		var held []byte
		a.port.filter(func(m []byte, _ *port) bool {
			held = slices.Clone(m)
			return false
		})
		a.sendText(b, "old")
		time.Sleep(181 * time.Second)
		b.port.deliver(held, a.port)
		wantTexts(t, b)
	})
}

// Packets whose source is not in the peer's allowed IPs, and packets to an address of no peer, are
// dropped and counted.
func TestForeignAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		foreign := netip.MustParseAddr("100.64.0.9")
		a.tun.send(packet(foreign, b.addr, "from"), packet(a.addr, foreign, "to"), []byte{0x45}, []byte{0})
		wantTexts(t, b)
		if n := b.Dropped().Foreign; n != 1 {
			t.Errorf("got %d foreign packets, want 1", n)
		}
		if n := a.Dropped().Unroutable; n != 3 {
			t.Errorf("got %d unroutable packets, want 3", n)
		}
	})
}

// The endpoint of a peer that roams follows its messages. The endpoint of another peer does not
// change.
func TestRoaming(t *testing.T) {
	for _, roams := range []bool{true, false} {
		inBubble(t, func(t *testing.T) {
			a, b := newPair(t)
			p := a.asPeer()
			p.Roams = roams
			b.SetPeer(p)
			a.sendText(b, "x")
			wantTexts(t, b, "x")
			elsewhere := newPort("elsewhere")
			a.port.filter(func(m []byte, to *port) bool {
				to.deliver(m, elsewhere)
				return false
			})
			a.sendText(b, "y")
			wantTexts(t, b, "y")
			want := "host1"
			if roams {
				want = "elsewhere"
			}
			if s, _ := b.PeerState(a.key.Public()); s.Endpoint != want {
				t.Errorf("got endpoint %q, want %q", s.Endpoint, want)
			}
		})
	}
}

// Messages of a removed peer are dropped, also after it has been added again. A host with a new key
// is unknown to its peers until they add that key.
func TestRemoveAndReplace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "x")
		wantTexts(t, b, "x")
		b.RemovePeer(a.key.Public())
		a.sendText(b, "to a host without this peer")
		a.StartHandshake(b.key.Public())
		wantTexts(t, b)
		if n := len(b.indices.all()); n != 0 {
			t.Errorf("got %d receiver indices after the peer was removed, want none", n)
		}
		b.SetPeer(a.asPeer())
		a.StartHandshake(b.key.Public())
		wantTexts(t, b)
		a.sendText(b, "y")
		wantTexts(t, b, "y")

		k := key.NewNodePrivate()
		a.SetKey(k)
		if s, _ := a.PeerState(b.key.Public()); !s.Handshake.IsZero() {
			t.Errorf("got last handshake %v after the key changed, want none", s.Handshake)
		}
		a.sendText(b, "under a new key")
		wantTexts(t, b)
		b.RemovePeer(a.key.Public())
		a.key = k
		b.SetPeer(a.asPeer())
		a.StartHandshake(b.key.Public())
		wantTexts(t, b, "under a new key")
	})
}

// After ExpireKeypairs the next packet starts a handshake, and messages under the old keypair are
// still accepted.
func TestExpireKeypairs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.sendText(b, "x")
		wantTexts(t, b, "x")
		initiations := a.count(typeInitiation)
		a.ExpireKeypairs(b.key.Public())
		b.sendText(a, "under the old keypair")
		wantTexts(t, a, "under the old keypair")
		if initiations.n() != 0 {
			t.Error("an initiation was sent before there was a packet")
		}
		time.Sleep(retryInterval)
		a.sendText(b, "y")
		wantTexts(t, b, "y")
		if initiations.n() != 1 {
			t.Errorf("got %d initiations, want 1", initiations.n())
		}
	})
}
