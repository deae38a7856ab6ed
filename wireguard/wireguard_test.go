package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// again is after how long a peer answers another beginning.
const again = 50 * time.Millisecond

// inBubble runs f where time passes when everybody waits.
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

// Packets of both families and all sizes arrive as they were sent, in order, and bytes are counted.
func TestExchange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
		for _, h := range []struct {
			of, at *host
			addr   netip.Addr
		}{{a, b, a6}, {b, a, b6}} {
			p := h.of.as()
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(h.addr, 128))
			h.at.SetPeer(p)
		}
		var want []string
		for n := 0; n <= 1380; n += 23 {
			text := strings.Repeat("x", n)
			a.say(b, text)
			a.tun.send(packet(a6, b6, text))
			want = append(want, text, text)
		}
		wantTexts(t, b, want...)
		b.say(a, "answer")
		wantTexts(t, a, "answer")
		at, _ := a.Session(b.key.Public())
		bt, _ := b.Session(a.key.Public())
		if at.Tx != bt.Rx || at.Rx != bt.Tx || at.Rx == 0 || at.Endpoint != "host2" || at.Handshake.IsZero() {
			t.Errorf("sessions %+v and %+v", at, bt)
		}
	})
}

// A preshared key has to be the same on both sides.
func TestPresharedKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		psk := key.PresharedFromRaw([key.Size]byte{1, 2, 3})
		p := b.as()
		p.PresharedKey = psk
		a.SetPeer(p)
		a.say(b, "lost")
		wantTexts(t, b)
		q := a.as()
		q.PresharedKey = psk
		b.SetPeer(q)
		time.Sleep(again)
		a.Begin(b.key.Public())
		wantTexts(t, b, "lost")
	})
}

// A session is replaced by another without a packet being lost, whoever began it, for as long as
// there is traffic.
func TestRekey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		began, answered := a.count(typeInitiation), b.count(typeResponse)
		for i := range 1200 {
			a.say(b, fmt.Sprint("to b ", i))
			wantTexts(t, b, fmt.Sprint("to b ", i))
			if i%3 == 0 {
				b.say(a, fmt.Sprint("to a ", i))
				wantTexts(t, a, fmt.Sprint("to a ", i))
			}
			time.Sleep(time.Second)
		}
		if began.n() != 10 || answered.n() != 10 {
			t.Errorf("%d handshakes begun, %d answered in 20 minutes, want 10", began.n(), answered.n())
		}
	})
}

// One that only receives has a new session made before the old one ends.
func TestReceiverRekeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		b.say(a, "hello") // b begins, and is the one that has to see to it
		wantTexts(t, a, "hello")
		for i := range 600 {
			a.say(b, fmt.Sprint(i))
			wantTexts(t, b, fmt.Sprint(i))
			time.Sleep(time.Second)
		}
	})
}

// Two that begin at the same moment both get through, and again when they both do so anew.
func TestSimultaneous(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		for i := range 20 {
			a.Begin(b.key.Public())
			b.Begin(a.key.Public())
			a.say(b, fmt.Sprint("to b ", i))
			b.say(a, fmt.Sprint("to a ", i))
			wantTexts(t, b, fmt.Sprint("to b ", i))
			wantTexts(t, a, fmt.Sprint("to a ", i))
			time.Sleep(time.Second)
		}
	})
}

// What is lost of a handshake is repeated after five seconds and a bit; packets wait for it.
func TestHandshakeLoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.lose(typeInitiation, 2)
		a.say(b, "one")
		time.Sleep(9 * time.Second)
		wantTexts(t, b)
		time.Sleep(2 * time.Second)
		wantTexts(t, b, "one")
		b.lose(typeResponse, 1)
		a.Begin(b.key.Public())
		a.say(b, "two")
		wantTexts(t, b)
		time.Sleep(6 * time.Second)
		wantTexts(t, b, "two")
	})
}

// A peer that does not answer is given up after 90 seconds, and what waited for it is dropped; the
// next packet begins anew.
func TestGiveUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.lose(typeInitiation, 1000)
		tries := a.count(typeInitiation)
		for i := range 2 * maxStaged {
			a.say(b, fmt.Sprint(i))
		}
		time.Sleep(10 * time.Minute)
		if tries.n() != maxAttempts {
			t.Errorf("%d attempts, want %d", tries.n(), maxAttempts)
		}
		a.port.filter(nil)
		a.say(b, "again")
		wantTexts(t, b, "again")
	})
}

// Of what waits for a session the newest is kept.
func TestStaged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.lose(typeInitiation, 1)
		var want []string
		for i := range 2 * maxStaged {
			a.say(b, fmt.Sprint(i))
			if i >= maxStaged {
				want = append(want, fmt.Sprint(i))
			}
		}
		time.Sleep(6 * time.Second)
		wantTexts(t, b, want...)
		if n := a.Dropped().Full; n != maxStaged {
			t.Errorf("%d packets counted as dropped, want %d", n, maxStaged)
		}
	})
}

// What comes twice is taken once, and what comes late still is.
func TestReplay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.say(b, "first")
		wantTexts(t, b, "first")
		var held []byte
		a.port.filter(func(m []byte, to *port) bool {
			if messageType(m) == typeData && held == nil {
				held = slices.Clone(m)
				return false
			}
			to.deliver(m, a.port)
			return true
		})
		a.say(b, "late")
		a.say(b, "twice")
		wantTexts(t, b, "twice")
		b.port.deliver(held, a.port)
		b.port.deliver(held, a.port)
		wantTexts(t, b, "late")
		if n := b.Dropped().Bogus; n < 2 {
			t.Errorf("%d messages dropped, want at least 2", n)
		}
	})
}

// A message of a handshake that was seen before brings nothing about.
func TestReplayedInitiation(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		var seen []byte
		a.port.filter(func(m []byte, _ *port) bool {
			if messageType(m) == typeInitiation {
				seen = slices.Clone(m)
			}
			return true
		})
		a.say(b, "x")
		wantTexts(t, b, "x")
		answers := b.count(typeResponse)
		time.Sleep(time.Minute)
		b.port.deliver(seen, a.port)
		synctest.Wait()
		if answers.n() != 0 {
			t.Error("an old initiation was answered")
		}
		a.say(b, "y")
		wantTexts(t, b, "y")
	})
}

// Who only receives says so within ten seconds; who hears nothing for fifteen begins anew.
func TestPassiveTimers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.say(b, "x")
		wantTexts(t, b, "x")
		keepalives := b.count(typeData)
		time.Sleep(9 * time.Second)
		if keepalives.n() != 0 {
			t.Error("a keepalive too soon")
		}
		time.Sleep(2 * time.Second)
		if keepalives.n() != 1 {
			t.Errorf("%d keepalives, want 1", keepalives.n())
		}
		time.Sleep(time.Minute)
		if keepalives.n() != 1 {
			t.Errorf("%d keepalives of those that have nothing to say, want 1", keepalives.n())
		}
		b.lose(typeData, 1000)
		began := a.count(typeInitiation)
		a.say(b, "y")
		time.Sleep(14 * time.Second)
		if began.n() != 0 {
			t.Error("a new session too soon")
		}
		time.Sleep(2 * time.Second)
		if began.n() != 1 {
			t.Errorf("%d sessions begun because nothing came back, want 1", began.n())
		}
	})
}

// A peer with a keepalive is spoken with from the start, and every so many seconds.
func TestPersistentKeepalive(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		sent := a.count(typeData)
		p := b.as()
		p.Keepalive = 25 * time.Second
		a.SetPeer(p)
		synctest.Wait()
		if a.handshakeAge(b) < 0 || sent.n() != 1 {
			t.Fatalf("no session, or %d messages", sent.n())
		}
		time.Sleep(10*time.Minute + time.Second)
		if sent.n() < 24 || sent.n() > 32 {
			t.Errorf("%d messages in 10 minutes, want 24 and one for each session", sent.n())
		}
	})
}

// Sessions that are not used are forgotten, and so are all their numbers.
func TestForget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		for range 3 {
			a.say(b, "x")
			wantTexts(t, b, "x")
			time.Sleep(again)
			a.Begin(b.key.Public())
			time.Sleep(again)
		}
		for _, h := range []*host{a, b} {
			if n := len(h.index.all()); n < 1 || n > 3 {
				t.Errorf("%d numbers in use, want 1 to 3", n)
			}
		}
		time.Sleep(10 * time.Minute)
		for _, h := range []*host{a, b} {
			if n := len(h.index.all()); n != 0 {
				t.Errorf("%s: %d numbers in use after 10 minutes, want none", h.port.name, n)
			}
		}
		a.say(b, "y")
		wantTexts(t, b, "y")
	})
}

// A session that is too old is not believed.
func TestReject(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.say(b, "x")
		wantTexts(t, b, "x")
		var held []byte
		a.port.filter(func(m []byte, _ *port) bool {
			held = slices.Clone(m)
			return false
		})
		a.say(b, "old")
		time.Sleep(181 * time.Second)
		b.port.deliver(held, a.port)
		wantTexts(t, b)
	})
}

// Packets from another address than the peer's, and to nobody's, are dropped and counted.
func TestForeignAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		stranger := netip.MustParseAddr("100.64.0.9")
		a.tun.send(packet(stranger, b.addr, "from a stranger"), packet(a.addr, stranger, "to a stranger"), []byte{0x45}, []byte{0})
		wantTexts(t, b)
		if n := b.Dropped().Foreign; n != 1 {
			t.Errorf("%d foreign packets, want 1", n)
		}
		if n := a.Dropped().Unroutable; n != 3 {
			t.Errorf("%d packets for nobody, want 3", n)
		}
	})
}

// A peer that roams is answered where it was last heard from; one that does not, where it always
// was.
func TestRoaming(t *testing.T) {
	for _, roams := range []bool{true, false} {
		inBubble(t, func(t *testing.T) {
			a, b := two(t)
			p := a.as()
			p.Roams = roams
			b.SetPeer(p)
			a.say(b, "x")
			wantTexts(t, b, "x")
			elsewhere := newPort("elsewhere")
			a.port.filter(func(m []byte, to *port) bool {
				to.deliver(m, elsewhere)
				return false
			})
			a.say(b, "y")
			wantTexts(t, b, "y")
			want := "host1"
			if roams {
				want = "elsewhere"
			}
			if s, _ := b.Session(a.key.Public()); s.Endpoint != want {
				t.Errorf("endpoint %q, want %q", s.Endpoint, want)
			}
		})
	}
}

// A peer that is removed is not heard any more, nor one whose key was exchanged; a node with a new
// key is a stranger.
func TestRemoveAndReplace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.say(b, "x")
		wantTexts(t, b, "x")
		b.RemovePeer(a.key.Public())
		a.say(b, "to one who has forgotten")
		a.Begin(b.key.Public())
		wantTexts(t, b)
		if n := len(b.index.all()); n != 0 {
			t.Errorf("%d numbers left", n)
		}
		b.SetPeer(a.as())
		a.Begin(b.key.Public())
		wantTexts(t, b)
		a.say(b, "y")
		wantTexts(t, b, "y")

		k := key.NewNodePrivate()
		a.SetKey(k)
		if s, _ := a.Session(b.key.Public()); !s.Handshake.IsZero() {
			t.Errorf("with a new key the last handshake is that of the old one, at %v", s.Handshake)
		}
		a.say(b, "by a new key")
		wantTexts(t, b)
		b.RemovePeer(a.key.Public())
		a.key = k
		b.SetPeer(a.as())
		a.Begin(b.key.Public())
		wantTexts(t, b, "by a new key")
	})
}

// Renew has the next packet wait for a new session, and takes what comes under the old one.
func TestRenew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.say(b, "x")
		wantTexts(t, b, "x")
		began := a.count(typeInitiation)
		a.Renew(b.key.Public())
		b.say(a, "under the old one")
		wantTexts(t, a, "under the old one")
		if began.n() != 0 {
			t.Error("a session before there was a packet")
		}
		time.Sleep(again)
		a.say(b, "y")
		wantTexts(t, b, "y")
		if began.n() != 1 {
			t.Errorf("%d sessions begun, want 1", began.n())
		}
	})
}

// Messages that make no sense are dropped, whatever their form.
func FuzzReceive(f *testing.F) {
	f.Add(make([]byte, 4))
	for kind, n := range map[uint32]int{typeInitiation: initiationLen, typeResponse: responseLen, typeCookie: cookieLen, typeData: 64} {
		b := make([]byte, n)
		binary.LittleEndian.PutUint32(b, kind)
		f.Add(b)
	}
	a, b := two(f)
	a.tun.send(packet(a.addr, b.addr, "x"))
	for len(b.tun.take()) == 0 {
		time.Sleep(time.Millisecond)
	}
	var session uint32
	for n := range b.index.all() {
		session = n
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		b.port.deliver(m, a.port)
		if len(m) >= 12 { // of the session, and of a handshake of it
			m = slices.Clone(m)
			binary.LittleEndian.PutUint32(m[4:], session)
			b.port.deliver(m, a.port)
			binary.LittleEndian.PutUint32(m[8:], session)
			b.port.deliver(m, a.port)
		}
	})
}
