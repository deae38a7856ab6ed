package wireguard

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"ginnel/internal/key"
)

// lowOrder are points with which every secret is zero (RFC 7748, section 6.1).
var lowOrder = [][key.Size]byte{
	{},
	{0: 1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
}

// remac gives a message to the owner of a key the MAC1 that fits it.
func remac(b []byte, to key.NodePublic) []byte {
	b = slices.Clone(b)
	clear(b[len(b)-macsLen:])
	var g device.CookieGenerator
	g.Init(device.NoisePublicKey(to))
	g.AddMacs(b)
	return b
}

// A message with any byte changed is refused by whoever reads it, and the genuine one still works
// after all of them.
func TestTamper(t *testing.T) {
	a, b := twoSides([key.Size]byte{9})
	i, m := a.begin(t, 1)
	for n := initiationEphemeral; n < initiationMACs; n++ {
		for _, bits := range []byte{1, 0x80} {
			c := slices.Clone(m)
			c[n] ^= bits
			// The curve ignores the highest bit of a point (RFC 7748, section 5), the hash does
			// not.
			if _, err := b.read(c); err == nil {
				t.Errorf("an initiation with byte %d changed is read", n)
			}
		}
	}
	kb, response := b.answer(t, m, 2)
	for n := responseEphemeral; n < responseMACs; n++ {
		for _, bits := range []byte{1, 0x80} {
			c := slices.Clone(response)
			c[n] ^= bits
			if _, err := i.complete(c, 1); err == nil {
				t.Errorf("a response with byte %d changed makes a session", n)
			}
		}
	}
	ka, err := i.complete(response, 1)
	if err != nil {
		t.Fatal(err)
	}
	wantSession(t, ka, kb)
}

// Points of low order are refused wherever one may stand, and leave no trace.
func TestLowOrder(t *testing.T) {
	a, b := twoSides([key.Size]byte{})
	i, m := a.begin(t, 1)
	kb, response := b.answer(t, m, 2)
	for _, point := range lowOrder {
		c := slices.Clone(m)
		copy(c[initiationEphemeral:], point[:])
		if _, err := b.read(c); err == nil {
			t.Errorf("an initiation with the ephemeral key %x is read", point)
		}
		c = slices.Clone(response)
		copy(c[responseEphemeral:], point[:])
		if _, err := i.complete(c, 1); err == nil {
			t.Errorf("a response with the ephemeral key %x makes a session", point)
		}
		p := newPeer(point)
		p.psk.Store(new([key.Size]byte))
		if _, _, err := a.id.newInitiation(p, 1, newEphemeral(), [12]byte{}); err == nil {
			t.Errorf("a handshake with the static key %x begins", point)
		}
		r, err := b.read(m)
		if err != nil {
			t.Fatal(err)
		}
		r.ephemeral = publicKey(point[:])
		if _, _, err := r.answer(b.of, b.id, 3, newEphemeral(), 1); err == nil {
			t.Errorf("an initiation with the ephemeral key %x is answered", point)
		}
	}
	ka, err := i.complete(response, 1)
	if err != nil {
		t.Fatalf("after forged responses the genuine one: %v", err)
	}
	wantSession(t, ka, kb)
}

// hold keeps the first message of a type that h sends, and loses all of that type.
func (h *host) hold(kind uint32) *[]byte {
	var held []byte
	h.port.filter(func(m []byte, _ *port) bool {
		if messageType(m) == kind && held == nil {
			held = slices.Clone(m)
		}
		return messageType(m) != kind
	})
	return &held
}

// tampered are copies of a handshake message, each with another byte changed, with the MAC1 as it
// was and with one that fits. Two fields are left out: MAC2, which does not count without load,
// and, where MAC1 fits, the sender's index, which Noise does not cover.
func tampered(b []byte, to key.NodePublic) (all [][]byte) {
	for n := range len(b) - macsLen/2 {
		c := slices.Clone(b)
		c[n] ^= 0x41
		all = append(all, c)
		if sender := n >= initiationSender && n < initiationSender+4; !sender && n < len(b)-macsLen {
			all = append(all, remac(c, to))
		}
	}
	return all
}

// A device drops a handshake message with any byte changed, and takes the genuine one after all of
// them.
func TestDeviceDropsTampered(t *testing.T) {
	for name, kind := range map[string]uint32{"initiation": typeInitiation, "response": typeResponse} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := two(t)
				from, to := a, b
				if kind == typeResponse {
					from, to = b, a
				}
				held := from.hold(kind)
				a.say(b, "x")
				synctest.Wait()
				responses, data := to.count(typeResponse), to.count(typeData)
				messages := tampered(*held, to.key.Public())
				before := to.Dropped().Bogus
				for _, m := range messages {
					to.port.deliver(m, from.port)
					time.Sleep(5 * time.Millisecond)
				}
				if n := to.Dropped().Bogus - before; n != uint64(len(messages)) {
					t.Errorf("%d of %d changed messages are dropped", n, len(messages))
				}
				if responses.n() != 0 || data.n() != 0 {
					t.Errorf("%d responses and %d messages by a session", responses.n(), data.n())
				}
				to.port.deliver(*held, from.port)
				wantTexts(t, b, "x")
			})
		})
	}
}

// A cookie reply with any byte changed is dropped, and the genuine one is taken after all of them.
func TestDeviceDropsTamperedCookies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		held := a.hold(typeInitiation)
		a.say(b, "x")
		synctest.Wait()
		replies := b.hold(typeCookie)
		b.challenge(b.self.Load(), *held, a.port)
		synctest.Wait()
		p, _ := a.peer(b.key.Public())
		for n := range *replies {
			c := slices.Clone(*replies)
			c[n] ^= 0x41
			before := a.Dropped().Bogus
			a.port.deliver(c, b.port)
			synctest.Wait()
			if a.Dropped().Bogus != before+1 {
				t.Errorf("a cookie reply with byte %d changed is not dropped", n)
			}
		}
		before := a.Dropped().Bogus
		a.port.deliver(*replies, b.port)
		synctest.Wait()
		m := make([]byte, initiationLen)
		p.cookies.AddMacs(m)
		mac2 := [macsLen / 2]byte(m[len(m)-macsLen/2:])
		if a.Dropped().Bogus != before || mac2 == [macsLen / 2]byte{} {
			t.Error("the genuine reply is not taken")
		}
	})
}

// A forged response with an ephemeral key of low order does not spoil the genuine one.
func TestForgedResponse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		held := b.hold(typeResponse)
		a.say(b, "x")
		synctest.Wait()
		for _, point := range lowOrder {
			forged := slices.Clone(*held)
			copy(forged[responseEphemeral:], point[:])
			a.port.deliver(remac(forged, a.key.Public()), b.port)
		}
		a.port.deliver(*held, b.port)
		wantTexts(t, b, "x")
	})
}
