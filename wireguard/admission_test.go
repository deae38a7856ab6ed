package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/key"
	"ginnel/internal/share"
)

// stranger makes initiations to a device that does not know it. MAC1 is valid: the device's key is
// no secret.
type stranger struct {
	id *identity
	to *peer
}

func newStranger(to *host) *stranger {
	p := newPeer(to.key.Public())
	p.psk.Store(new([key.Size]byte))
	return &stranger{newIdentity(key.NewNodePrivate()), p}
}

func (s *stranger) initiation(tb testing.TB) []byte {
	tb.Helper()
	_, b, err := s.id.newInitiation(s.to, 1, newEphemeral(), tai64n.Now())
	if err != nil {
		tb.Fatal(err)
	}
	s.to.cookies.AddMacs(b)
	return b
}

// garbage has the form of an initiation.
func garbage() []byte {
	b := make([]byte, initiationLen)
	binary.LittleEndian.PutUint32(b, typeInitiation)
	return b
}

// flood delivers a message many times, from as many addresses as that.
func flood(to *host, b []byte, times, sources int) {
	ports := make([]*port, sources)
	for i := range ports {
		ports[i] = newPort(fmt.Sprint("crowd", i))
		ports[i].ip = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
	}
	for i := range times {
		to.port.deliver(b, ports[i%sources])
	}
	synctest.Wait()
}

// wantHandshakes has a make 20 sessions with b, one a second, each at once, while attack goes on.
func wantHandshakes(t *testing.T, a, b *host, attack func()) {
	t.Helper()
	cookies := b.count(typeCookie)
	for i := range 20 {
		for range 8 {
			attack()
			time.Sleep(125 * time.Millisecond)
		}
		attack()
		a.Begin(b.key.Public())
		a.say(b, fmt.Sprint(i))
		synctest.Wait()
		if got := b.tun.take(); len(got) != 1 {
			t.Fatalf("handshake %d was not answered at once, after %d cookies", i, cookies.n())
		}
	}
	if n := cookies.n(); n != 0 {
		t.Errorf("%d cookies though there was no load", n)
	}
}

// Messages without a valid MAC1 are no load, whether there are few of them or as many as the wire
// carries.
func TestGarbageIsNoLoad(t *testing.T) {
	for name, n := range map[string]int{"32 at once": 32, "64 at once": 64, "1,500 at once": 1500} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := two(t)
				m := garbage()
				wantHandshakes(t, a, b, func() { flood(b, m, n, 1) })
				if n := b.Dropped().Full; n != 0 {
					t.Errorf("%d messages found no room", n)
				}
			})
		})
	}
}

// Responses and cookies to nothing are dropped where they arrive.
func TestUnaskedIsNoLoad(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		response, cookie := make([]byte, responseLen), make([]byte, cookieLen)
		binary.LittleEndian.PutUint32(response, typeResponse)
		newStranger(b).to.cookies.AddMacs(response)
		binary.LittleEndian.PutUint32(cookie, typeCookie)
		wantHandshakes(t, a, b, func() {
			flood(b, response, 500, 1)
			flood(b, cookie, 500, 1)
		})
		if n := b.Dropped().Full; n != 0 {
			t.Errorf("%d messages found no room", n)
		}
	})
}

// Of messages with a valid MAC1, 8 KB/s are no load. What is more than the share of one address is
// a burden for that address alone.
func TestOneSourceBurdensItself(t *testing.T) {
	for name, n := range map[string]int{"8 KB/s": 7, "more than anybody's share": 600} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := two(t)
				m := newStranger(b).initiation(t)
				challenges := 0
				b.port.filter(func(m []byte, to *port) bool {
					if messageType(m) == typeCookie {
						challenges++ // by the goroutine of the port
						if to == a.port {
							t.Error("an honest peer has to prove its address")
						}
					}
					return true
				})
				before := b.Dropped().Full
				for i := range 20 {
					for range 8 {
						flood(b, m, n, 1)
						time.Sleep(125 * time.Millisecond)
					}
					flood(b, m, n, 1)
					a.Begin(b.key.Public())
					a.say(b, fmt.Sprint(i))
					wantTexts(t, b, fmt.Sprint(i))
				}
				many := n > sourceBurst
				if (challenges > 0) != many {
					t.Errorf("%d cookies", challenges)
				}
				if room := b.Dropped().Full == before; !many && !room {
					t.Error("messages found no room")
				}
			})
		})
	}
}

// A crowd with a valid MAC1 has everybody prove his address; who does gets through.
func TestCookies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		replies := b.count(typeCookie)
		m := newStranger(b).initiation(t)
		crowd := func() { flood(b, m, 2*loadBurst, 64) }
		crowd()
		before := replies.n()
		if before == 0 {
			t.Fatal("nobody had to prove an address")
		}
		a.say(b, "x")
		synctest.Wait()
		if replies.n() != before+1 || len(b.tun.take()) != 0 {
			t.Fatalf("%d cookies for one who has none, want 1", replies.n()-before)
		}
		// The load goes on when a tries again, now with a cookie.
		time.Sleep(5*time.Second - time.Millisecond)
		crowd()
		for range 40 { // a waits a little longer than five seconds
			time.Sleep(10 * time.Millisecond)
			flood(b, m, 64, 64)
		}
		wantTexts(t, b, "x")
	})
}

// Who returns our cookies has a rate too.
func TestProvenShare(t *testing.T) {
	var a admission
	a.init()
	h := newHost(t, 1)
	id := h.self.Load()
	s := newStranger(h)
	now := time.Now()
	take := func() verdict { return a.judge(id, s.initiation(t), h.port, now) }
	for range sourceBurst {
		if v := take(); v != admitted {
			t.Fatalf("verdict %d within the share of a source", v)
		}
	}
	m := s.initiation(t)
	if v := a.judge(id, m, h.port, now); v != challenged {
		t.Fatalf("verdict %d beyond it, want a challenge", v)
	}
	reply, err := id.checker.CreateReply(m, 1, h.port.DstToBytes())
	if err != nil || !s.to.cookies.ConsumeReply(reply) {
		t.Fatal("no cookie", err)
	}
	for i := range provenBurst + 1 {
		want := admitted
		if i == provenBurst {
			want = refused
		}
		if v := take(); v != want {
			t.Errorf("verdict %d on message %d with a cookie, want %d", v, i, want)
		}
	}
	now = now.Add(time.Second / provenRate)
	for range sourceRate / provenRate { // come back in that time
		take()
	}
	if v := take(); v != admitted {
		t.Errorf("verdict %d later", v)
	}
}

// Each source has its share, an IPv6 site one together, and they are not remembered without bound.
func TestShares(t *testing.T) {
	var a admission
	a.init()
	site := newPort("x")
	now := time.Now()
	taken := 0
	for i := range 2 * sourceBurst {
		site.ip = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
		if a.judgeCookie(site, now) == admitted {
			taken++
		}
	}
	if taken != sourceBurst {
		t.Errorf("%d messages of a site were admitted, want %d", taken, sourceBurst)
	}
	site.ip = netip.Addr{}
	if a.judgeCookie(site, now) != admitted {
		t.Error("an endpoint without an address is not a source like any other")
	}
	s := shares{limit: 1, burst: 1}
	for i := range 3 * maxSources {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		source := share.SourceOf(a)
		if !s.allow(source, now) || s.allow(source, now) {
			t.Fatalf("source %d has another share than one message", i)
		}
		if len(s.all) > maxSources {
			t.Fatalf("%d sources are remembered", len(s.all))
		}
	}
}

// Cookies that wait to be sent are bounded and take no room of messages that were admitted.
func TestMailboxBounds(t *testing.T) {
	var m mailbox
	m.init()
	for i := range maxMail + 1 {
		p := newPort(fmt.Sprint("crowd", i))
		if challenged := m.putChallenged(garbage(), p); challenged != (i < maxChallenged) {
			t.Fatalf("message %d to be challenged is kept: %v", i, challenged)
		}
		if admitted := m.put(garbage(), p); admitted != (i < maxMail) {
			t.Fatalf("message %d that was admitted is kept: %v", i, admitted)
		}
	}
	if n := len(m.takeChallenged()); n != maxChallenged || len(m.takeChallenged()) != 0 {
		t.Errorf("%d messages to be challenged, want %d once", n, maxChallenged)
	}
	p := newPort("x")
	if !m.putChallenged(garbage(), p) || m.putChallenged(garbage(), p) || len(m.takeChallenged()) != 1 {
		t.Error("a sender has room for more or less than one message")
	}
}

// Garbage allocates nothing, for there can be much of it.
func TestGarbageAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	h := newHost(t, 1)
	r := &receiver{d: h.Device, from: h.port}
	m := garbage()
	if n := testing.AllocsPerRun(100, func() { r.take(m) }); n != 0 {
		t.Errorf("a message without a valid MAC1 allocates %v times", n)
	}
	if n := h.Dropped().Bogus; n != 101 {
		t.Errorf("%d messages dropped, want 101", n)
	}
}
