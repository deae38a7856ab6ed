package wireguard

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"ginnel/internal/share"
	"ginnel/key"
)

// lowOrder are points of low order: every shared secret with them is zero (RFC 7748, section 6.1).
var lowOrder = [][key.Size]byte{
	{},
	{0: 1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	nearPrime(0xec), nearPrime(0xed), nearPrime(0xee), // p-1, and 0 and 1 in non-canonical form: p and p+1
}

// nearPrime returns the little-endian encoding of a number near p = 2^255 - 19, whose lowest byte
// is 0xed.
func nearPrime(lowest byte) (b [key.Size]byte) {
	for i := range b {
		b[i] = 0xff
	}
	b[0], b[key.Size-1] = lowest, 0x7f
	return b
}

// withMAC1 returns a copy of a handshake message with a valid MAC1 for the given receiver.
func withMAC1(b []byte, to key.NodePublic) []byte {
	b = slices.Clone(b)
	clear(b[len(b)-macsLen:])
	var g device.CookieGenerator
	g.Init(device.NoisePublicKey(to))
	g.AddMacs(b)
	return b
}

// An initiation or a response with any authenticated byte changed is refused. The genuine message
// still works afterwards.
func TestTamper(t *testing.T) {
	a, b := twoSides([key.Size]byte{9})
	i, m := a.initiate(t, 1)
	for n := initiationEphemeral; n < initiationMACs; n++ {
		for _, bits := range []byte{1, 0x80} {
			c := slices.Clone(m)
			c[n] ^= bits
			// The curve ignores the highest bit of a point (RFC 7748, section 5), but the
			// transcript hash does not.
			if _, err := b.consume(c); err == nil {
				t.Errorf("an initiation with byte %d changed is accepted", n)
			}
		}
	}
	kb, response := b.respond(t, m, 2)
	for n := responseEphemeral; n < responseMACs; n++ {
		for _, bits := range []byte{1, 0x80} {
			c := slices.Clone(response)
			c[n] ^= bits
			if _, err := i.consumeResponse(c, 1); err == nil {
				t.Errorf("a response with byte %d changed is accepted", n)
			}
		}
	}
	ka, err := i.consumeResponse(response, 1)
	if err != nil {
		t.Fatal(err)
	}
	wantMatchingKeypairs(t, ka, kb)
}

// Points of low order are refused in every field and role, without a change of state.
func TestLowOrder(t *testing.T) {
	a, b := twoSides([key.Size]byte{})
	i, m := a.initiate(t, 1)
	kb, response := b.respond(t, m, 2)
	for _, point := range lowOrder {
		c := slices.Clone(m)
		copy(c[initiationEphemeral:], point[:])
		if _, err := b.consume(c); err == nil {
			t.Errorf("an initiation with the ephemeral key %x is accepted", point)
		}
		c = slices.Clone(response)
		copy(c[responseEphemeral:], point[:])
		if _, err := i.consumeResponse(c, 1); err == nil {
			t.Errorf("a response with the ephemeral key %x is accepted", point)
		}
		p := newPeer(point)
		p.psk.Store(new([key.Size]byte))
		if _, _, err := a.id.createInitiation(p, 1, newEphemeral(), [12]byte{}); err == nil {
			t.Errorf("an initiation to the static key %x is created", point)
		}
		r, err := b.consume(m)
		if err != nil {
			t.Fatal(err)
		}
		r.ephemeral = publicKey(point[:])
		if _, _, err := r.createResponse(b.peer, b.id, 3, newEphemeral(), 1); err == nil {
			t.Errorf("an initiation with the ephemeral key %x is answered", point)
		}
	}
	ka, err := i.consumeResponse(response, 1)
	if err != nil {
		t.Fatalf("the genuine response after forged ones: %v", err)
	}
	wantMatchingKeypairs(t, ka, kb)
}

// intercept drops all messages of a type that h sends, and keeps a copy of the first.
func (h *host) intercept(kind uint32) *[]byte {
	var held []byte
	h.port.filter(func(m []byte, _ *port) bool {
		if messageType(m) == kind && held == nil {
			held = slices.Clone(m)
		}
		return messageType(m) != kind
	})
	return &held
}

// tamperedCopies returns copies of a handshake message that each have one byte changed: one with
// the original MAC1, and one with a MAC1 that is valid again. Two fields are left out: MAC2, which
// is only checked under load, and the sender index with a valid MAC1, which nothing else
// authenticates.
func tamperedCopies(b []byte, to key.NodePublic) (all [][]byte) {
	for n := range len(b) - macsLen/2 {
		c := slices.Clone(b)
		c[n] ^= 0x41
		all = append(all, c)
		if sender := n >= initiationSender && n < initiationSender+4; !sender && n < len(b)-macsLen {
			all = append(all, withMAC1(c, to))
		}
	}
	return all
}

// newRoamingPair returns two hosts that are peers of each other and roam, so that a forged message
// that is accepted would move an endpoint.
func newRoamingPair(t *testing.T) (a, b *host) {
	a, b = newPair(t)
	for _, pair := range [][2]*host{{a, b}, {b, a}} {
		p := pair[0].asPeer()
		p.Roams = true
		pair[1].SetPeer(p)
	}
	return a, b
}

// wantRefused delivers messages to a host from an attacker's address. It checks that each is
// counted as bogus and that no state changes, no packet is delivered and nothing is sent.
func wantRefused(t *testing.T, to, from *host, messages [][]byte) {
	t.Helper()
	synctest.Wait()
	sent := to.count(0)
	before, bogus := snapshotOf(t, to, from), to.Dropped().Bogus
	attacker := newPort("attacker")
	for i, m := range messages {
		to.port.deliver(m, attacker)
		time.Sleep(5 * time.Millisecond) // below the rate limit of a source
		if n := to.Dropped().Bogus; n != bogus+uint64(i)+1 {
			t.Fatalf("message %d (%x) was not refused", i, m)
		}
		if snapshotOf(t, to, from) != before {
			t.Fatalf("message %d (%x) was refused but changed state", i, m)
		}
	}
	wantTexts(t, to)
	if n := sent.n(); n != 0 {
		t.Errorf("refused messages caused %d messages", n)
	}
}

// A device refuses a handshake message with any byte changed, without a change of state, and
// accepts the genuine one afterwards.
func TestDeviceRefusesTamperedHandshake(t *testing.T) {
	for name, kind := range map[string]uint32{"initiation": typeInitiation, "response": typeResponse} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newRoamingPair(t)
				from, to := a, b
				if kind == typeResponse {
					from, to = b, a
				}
				held := from.intercept(kind)
				a.sendText(b, "x")
				synctest.Wait()
				wantRefused(t, to, from, tamperedCopies(*held, to.key.Public()))
				to.port.deliver(*held, from.port)
				wantTexts(t, b, "x")
			})
		})
	}
}

// A device refuses a transport data message with any byte changed, without a change of state: the
// keypair stays unconfirmed and the replay window does not move. The genuine message is accepted
// afterwards.
func TestDeviceRefusesTamperedTransport(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newRoamingPair(t)
		for _, text := range []string{"unconfirmed keypair", "confirmed keypair"} {
			held := a.intercept(typeTransport)
			a.sendText(b, text)
			synctest.Wait()
			var messages [][]byte
			for n := range *held {
				for bit := range 8 {
					c := slices.Clone(*held)
					c[n] ^= 1 << bit
					messages = append(messages, c)
				}
			}
			for n := range *held {
				messages = append(messages, (*held)[:n])
			}
			wantRefused(t, b, a, append(messages, append(slices.Clone(*held), 0)))
			b.port.deliver(*held, a.port)
			wantTexts(t, b, text)
			wantRefused(t, b, a, [][]byte{*held})
		}
	})
}

// A device refuses a cookie reply with any byte changed, without a change of state: no MAC2 is
// sent. The genuine reply is accepted afterwards, and moves no endpoint.
func TestDeviceRefusesTamperedCookieReply(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newRoamingPair(t)
		held := a.intercept(typeInitiation)
		a.sendText(b, "x")
		synctest.Wait()
		reply := b.intercept(typeCookieReply)
		b.sendCookieReply(b.self.Load(), *held, a.port)
		synctest.Wait()
		var messages [][]byte
		for n := range *reply {
			c := slices.Clone(*reply)
			c[n] ^= 0x41
			messages = append(messages, c)
		}
		wantRefused(t, a, b, messages)

		p, _ := a.peer(b.key.Public())
		before, bogus := snapshotOf(t, a, b), a.Dropped().Bogus
		a.port.deliver(*reply, newPort("elsewhere"))
		synctest.Wait()
		if snapshotOf(t, a, b) != before || a.Dropped().Bogus != bogus {
			t.Error("the genuine cookie reply was refused, or changed more than the cookie")
		}
		m := slices.Clone(*held)
		p.cookies.AddMacs(m)
		if !b.self.Load().cookies.CheckMAC2(m, a.port.DstToBytes()) {
			t.Error("no valid MAC2 after the genuine cookie reply")
		}
	})
}

// Under load a message needs a MAC2 over all its bytes: with any byte changed it is answered with a
// cookie reply instead of being admitted.
func TestTamperedMAC2(t *testing.T) {
	h := newHost(t, 1)
	id, from := h.self.Load(), newPort("source")
	s := newUnknownPeer(h)
	reply, err := id.cookies.CreateReply(s.initiation(t), 1, from.DstToBytes())
	if err != nil || !s.to.cookies.ConsumeReply(reply) {
		t.Fatal("no cookie", err)
	}
	m := s.initiation(t)
	now := time.Now()
	judge := func(b []byte, from *port) verdict {
		var a admission
		a.init()
		for range sourceBurst {
			a.perSource.allow(share.SourceOf(from.DstIP()), now)
		}
		return a.judge(id, b, from, now)
	}
	for n := range m {
		c := slices.Clone(m)
		c[n] ^= 0x41
		if v := judge(c, from); v != needsCookie {
			t.Errorf("byte %d changed: got verdict %d, want needsCookie", n, v)
		}
	}
	if v := judge(m, newPort("elsewhere")); v != needsCookie {
		t.Errorf("from another source: got verdict %d, want needsCookie", v)
	}
	if v := judge(m, from); v != admitted {
		t.Errorf("genuine message: got verdict %d, want admitted", v)
	}
}

// A device refuses handshake messages with an ephemeral key of low order, without a change of
// state.
func TestDeviceRefusesLowOrder(t *testing.T) {
	for name, kind := range map[string]uint32{"initiation": typeInitiation, "response": typeResponse} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newRoamingPair(t)
				from, to, offset := a, b, initiationEphemeral
				if kind == typeResponse {
					from, to, offset = b, a, responseEphemeral
				}
				held := from.intercept(kind)
				a.sendText(b, "x")
				synctest.Wait()
				var messages [][]byte
				for _, point := range lowOrder {
					forged := slices.Clone(*held)
					copy(forged[offset:], point[:])
					messages = append(messages, withMAC1(forged, to.key.Public()))
				}
				wantRefused(t, to, from, messages)
				to.port.deliver(*held, from.port)
				wantTexts(t, b, "x")
			})
		})
	}
}
