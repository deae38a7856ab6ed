package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/share"
	"ginnel/key"
)

// unknownPeer makes initiations to a device whose peer it is not. Their MAC1 is valid, because the
// device's public key is no secret.
type unknownPeer struct {
	id *identity
	to *peer
}

func newUnknownPeer(to *host) *unknownPeer {
	p := newPeer(to.key.Public())
	p.psk.Store(new([key.Size]byte))
	return &unknownPeer{newIdentity(key.NewNodePrivate()), p}
}

func (s *unknownPeer) initiation(tb testing.TB) []byte {
	tb.Helper()
	_, b, err := s.id.createInitiation(s.to, 1, newEphemeral(), tai64n.Now())
	if err != nil {
		tb.Fatal(err)
	}
	s.to.cookies.AddMacs(b)
	return b
}

// invalidInitiation has the type and length of an initiation, but no valid MAC1.
func invalidInitiation() []byte {
	b := make([]byte, initiationLen)
	binary.LittleEndian.PutUint32(b, typeInitiation)
	return b
}

// flood delivers a message the given number of times, from the given number of source addresses.
func flood(to *host, b []byte, times, sources int) {
	ports := make([]*port, sources)
	for i := range ports {
		ports[i] = newPort(fmt.Sprint("source", i))
		ports[i].ip = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
	}
	for i := range times {
		to.port.deliver(b, ports[i%sources])
	}
	synctest.Wait()
}

// wantHandshakes checks that 20 handshakes of a with b, one a second, each complete at once while
// attack goes on, and that b sends no cookie reply.
func wantHandshakes(t *testing.T, a, b *host, attack func()) {
	t.Helper()
	cookies := b.count(typeCookieReply)
	for i := range 20 {
		for range 8 {
			attack()
			time.Sleep(125 * time.Millisecond)
		}
		attack()
		a.StartHandshake(b.key.Public())
		a.sendText(b, fmt.Sprint(i))
		synctest.Wait()
		if got := b.tun.take(); len(got) != 1 {
			t.Fatalf("handshake %d was not answered at once; cookie replies so far: %d", i, cookies.n())
		}
	}
	if n := cookies.n(); n != 0 {
		t.Errorf("got %d cookie replies without load, want none", n)
	}
}

// Messages without a valid MAC1 do not put the device under load, however many there are.
func TestInvalidMAC1IsNoLoad(t *testing.T) {
	for name, n := range map[string]int{"32 at once": 32, "64 at once": 64, "1,500 at once": 1500} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPair(t)
				m := invalidInitiation()
				wantHandshakes(t, a, b, func() { flood(b, m, n, 1) })
				if n := b.Dropped().NoRoom; n != 0 {
					t.Errorf("%d messages were dropped by a limit", n)
				}
			})
		})
	}
}

// Responses and cookie replies that refer to no message of ours are dropped before they count as
// load.
func TestUnsolicitedIsNoLoad(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		response, cookie := make([]byte, responseLen), make([]byte, cookieReplyLen)
		binary.LittleEndian.PutUint32(response, typeResponse)
		newUnknownPeer(b).to.cookies.AddMacs(response)
		binary.LittleEndian.PutUint32(cookie, typeCookieReply)
		wantHandshakes(t, a, b, func() {
			flood(b, response, 500, 1)
			flood(b, cookie, 500, 1)
		})
		if n := b.Dropped().NoRoom; n != 0 {
			t.Errorf("%d messages were dropped by a limit", n)
		}
	})
}

// 8 KB/s of messages with a valid MAC1 are no load. A source above its own limit gets cookie
// replies; other sources do not.
func TestOneSourceLimitsItself(t *testing.T) {
	for name, n := range map[string]int{"8 KB/s": 7, "above the limit of a source": 600} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPair(t)
				m := newUnknownPeer(b).initiation(t)
				cookies := 0
				b.port.filter(func(m []byte, to *port) bool {
					if messageType(m) == typeCookieReply {
						cookies++ // in one goroutine only, runHandshakes
						if to == a.port {
							t.Error("a peer within its limit gets a cookie reply")
						}
					}
					return true
				})
				before := b.Dropped().NoRoom
				for i := range 20 {
					for range 8 {
						flood(b, m, n, 1)
						time.Sleep(125 * time.Millisecond)
					}
					flood(b, m, n, 1)
					a.StartHandshake(b.key.Public())
					a.sendText(b, fmt.Sprint(i))
					wantTexts(t, b, fmt.Sprint(i))
				}
				above := n > sourceBurst
				if (cookies > 0) != above {
					t.Errorf("got %d cookie replies", cookies)
				}
				if n := b.Dropped().NoRoom - before; !above && n != 0 {
					t.Errorf("%d messages were dropped by a limit", n)
				}
			})
		})
	}
}

// If many sources with a valid MAC1 exceed the total limit, every sender needs a cookie. A peer
// that returns the cookie completes its handshake.
func TestCookies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		replies := b.count(typeCookieReply)
		m := newUnknownPeer(b).initiation(t)
		overload := func() { flood(b, m, 2*totalBurst, 64) }
		overload()
		before := replies.n()
		if before == 0 {
			t.Fatal("no cookie replies under load")
		}
		a.sendText(b, "x")
		synctest.Wait()
		if replies.n() != before+1 || len(b.tun.take()) != 0 {
			t.Fatalf("got %d cookie replies to a peer without a cookie, want 1", replies.n()-before)
		}
		// The load continues when a retransmits, now with a MAC2.
		time.Sleep(5*time.Second - time.Millisecond)
		overload()
		for range 40 { // Rekey-Timeout has a jitter of up to 333 ms
			time.Sleep(10 * time.Millisecond)
			flood(b, m, 64, 64)
		}
		wantTexts(t, b, "x")
	})
}

// Messages with a valid MAC2 are rate limited too.
func TestCookieLimit(t *testing.T) {
	var a admission
	a.init()
	h := newHost(t, 1)
	id := h.self.Load()
	s := newUnknownPeer(h)
	now := time.Now()
	judge := func() verdict { return a.judge(id, s.initiation(t), h.port, now) }
	for range sourceBurst {
		if v := judge(); v != admitted {
			t.Fatalf("within the source's limit: got verdict %d", v)
		}
	}
	m := s.initiation(t)
	if v := a.judge(id, m, h.port, now); v != needsCookie {
		t.Fatalf("above the source's limit: got verdict %d, want needsCookie", v)
	}
	reply, err := id.cookies.CreateReply(m, 1, h.port.DstToBytes())
	if err != nil || !s.to.cookies.ConsumeReply(reply) {
		t.Fatal("the cookie reply is refused", err)
	}
	for i := range cookieBurst + 1 {
		want := admitted
		if i == cookieBurst {
			want = refused
		}
		if v := judge(); v != want {
			t.Errorf("message %d with a MAC2: got verdict %d, want %d", i, v, want)
		}
	}
	now = now.Add(time.Second / cookieRate)
	for range sourceRate / cookieRate { // uses up what the source's own limit has regained
		judge()
	}
	if v := judge(); v != admitted {
		t.Errorf("after the limit has regained one message: got verdict %d", v)
	}
}

// Each source has its own limit, an IPv6 site counts as one source, and the number of remembered
// sources is bounded.
func TestSourceLimits(t *testing.T) {
	var a admission
	a.init()
	site := newPort("x")
	now := time.Now()
	n := 0
	for i := range 2 * sourceBurst {
		site.ip = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
		if a.judgeCookieReply(site, now) == admitted {
			n++
		}
	}
	if n != sourceBurst {
		t.Errorf("%d messages of a site were admitted, want %d", n, sourceBurst)
	}
	site.ip = netip.Addr{}
	if a.judgeCookieReply(site, now) != admitted {
		t.Error("a message from an endpoint without an address was refused")
	}
	s := sourceLimits{limit: 1, burst: 1}
	for i := range 3 * maxSources {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		source := share.SourceOf(a)
		if !s.allow(source, now) || s.allow(source, now) {
			t.Fatalf("source %d: the limit is not one message", i)
		}
		if len(s.limiters) > maxSources {
			t.Fatalf("%d sources are remembered, want at most %d", len(s.limiters), maxSources)
		}
	}
}

// The queue of messages that need a cookie reply is bounded, and separate from the queue of
// admitted messages.
func TestRequestBounds(t *testing.T) {
	var q requests
	q.init()
	for i := range maxQueuedMessages + 1 {
		p := newPort(fmt.Sprint("source", i))
		if queued := q.queueCookie(invalidInitiation(), p); queued != (i < maxQueuedCookies) {
			t.Fatalf("message %d that needs a cookie reply: queued %v", i, queued)
		}
		if queued := q.queueMessage(invalidInitiation(), p); queued != (i < maxQueuedMessages) {
			t.Fatalf("message %d that was admitted: queued %v", i, queued)
		}
	}
	if n := len(q.takeCookies()); n != maxQueuedCookies || len(q.takeCookies()) != 0 {
		t.Errorf("got %d messages that need a cookie reply, want %d once", n, maxQueuedCookies)
	}
	p := newPort("x")
	if !q.queueCookie(invalidInitiation(), p) || q.queueCookie(invalidInitiation(), p) || len(q.takeCookies()) != 1 {
		t.Error("a sender does not have exactly one place in the queue")
	}
}

// A message without a valid MAC1 allocates nothing, because an attacker can send many.
func TestInvalidMAC1Allocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	h := newHost(t, 1)
	r := &inbound{d: h.Device, from: h.port}
	m := invalidInitiation()
	if n := testing.AllocsPerRun(100, func() { r.handle(m) }); n != 0 {
		t.Errorf("a message without a valid MAC1: %v allocations, want none", n)
	}
	if n := h.Dropped().Bogus; n != 101 {
		t.Errorf("%d messages dropped, want 101", n)
	}
}
