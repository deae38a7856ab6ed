package wireguard

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"ginnel/internal/key"
)

// lowOrder are points of low order: every shared secret with them is zero (RFC 7748, section 6.1).
var lowOrder = [][key.Size]byte{
	{},
	{0: 1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
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

// A device drops a handshake message with any byte changed, and accepts the genuine one afterwards.
func TestDeviceDropsTampered(t *testing.T) {
	for name, kind := range map[string]uint32{"initiation": typeInitiation, "response": typeResponse} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPair(t)
				from, to := a, b
				if kind == typeResponse {
					from, to = b, a
				}
				held := from.intercept(kind)
				a.sendText(b, "x")
				synctest.Wait()
				responses, data := to.count(typeResponse), to.count(typeTransport)
				messages := tamperedCopies(*held, to.key.Public())
				before := to.Dropped().Bogus
				for _, m := range messages {
					to.port.deliver(m, from.port)
					time.Sleep(5 * time.Millisecond)
				}
				if n := to.Dropped().Bogus - before; n != uint64(len(messages)) {
					t.Errorf("%d of %d changed messages were dropped, want all", n, len(messages))
				}
				if responses.n() != 0 || data.n() != 0 {
					t.Errorf("changed messages caused %d responses and %d transport data messages", responses.n(), data.n())
				}
				to.port.deliver(*held, from.port)
				wantTexts(t, b, "x")
			})
		})
	}
}

// A cookie reply with any byte changed is dropped, and the genuine one is accepted afterwards.
func TestDeviceDropsTamperedCookies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		held := a.intercept(typeInitiation)
		a.sendText(b, "x")
		synctest.Wait()
		replies := b.intercept(typeCookieReply)
		b.sendCookieReply(b.self.Load(), *held, a.port)
		synctest.Wait()
		p, _ := a.peer(b.key.Public())
		for n := range *replies {
			c := slices.Clone(*replies)
			c[n] ^= 0x41
			before := a.Dropped().Bogus
			a.port.deliver(c, b.port)
			synctest.Wait()
			if a.Dropped().Bogus != before+1 {
				t.Errorf("a cookie reply with byte %d changed was not dropped", n)
			}
		}
		before := a.Dropped().Bogus
		a.port.deliver(*replies, b.port)
		synctest.Wait()
		m := make([]byte, initiationLen)
		p.cookies.AddMacs(m)
		mac2 := [macsLen / 2]byte(m[len(m)-macsLen/2:])
		if a.Dropped().Bogus != before || mac2 == [macsLen / 2]byte{} {
			t.Error("the genuine cookie reply was not accepted")
		}
	})
}

// A forged response with an ephemeral key of low order does not prevent the genuine one.
func TestForgedResponse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		held := b.intercept(typeResponse)
		a.sendText(b, "x")
		synctest.Wait()
		for _, point := range lowOrder {
			forged := slices.Clone(*held)
			copy(forged[responseEphemeral:], point[:])
			a.port.deliver(withMAC1(forged, a.key.Public()), b.port)
		}
		a.port.deliver(*held, b.port)
		wantTexts(t, b, "x")
	})
}
