package wireguard

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/key"
)

// Who has just answered a handshake does not begin one for five seconds, whatever asks for it, and
// does when the peer has not used the session by then.
func TestAnswererWaits(t *testing.T) {
	for name, want := range map[string]func(a, b *host){
		"packet": func(a, b *host) { b.say(a, "y") },
		"persistent keepalive": func(a, b *host) {
			p := a.as()
			p.Keepalive = time.Second
			b.SetPeer(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := two(t)
				a.lose(typeData, 1000)
				began := b.count(typeInitiation)
				a.say(b, "x")
				synctest.Wait()
				want(a, b)
				time.Sleep(5*time.Second - time.Millisecond)
				if n := began.n(); n != 0 {
					t.Errorf("%d handshakes begun by the one who answered", n)
				}
				time.Sleep(2 * time.Second)
				if n := began.n(); n != 1 {
					t.Errorf("%d handshakes begun when the session was not used, want 1", n)
				}
			})
		})
	}
}

// An attempt of our own waits when we have answered the peer, and ends when the peer uses the
// session.
func TestConfirmationEndsAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		b.lose(typeInitiation, 1)
		began := b.count(typeInitiation)
		b.say(a, "from b")
		time.Sleep(4900 * time.Millisecond)
		a.lose(typeData, 1)
		a.say(b, "lost")
		time.Sleep(4 * time.Second)
		if n := began.n(); n != 1 {
			t.Errorf("%d handshakes begun while the peer has a session to use, want the first alone", n)
		}
		a.say(b, "from a")
		wantTexts(t, b, "from a")
		wantTexts(t, a, "from b")
		b.say(a, "again")
		wantTexts(t, a, "again")
		time.Sleep(time.Minute)
		if n := began.n(); n != 1 {
			t.Errorf("%d handshakes begun though there is a session, want the first alone", n)
		}
	})
}

// When the peer uses a session that was given up meanwhile, our own attempt goes on: there is
// nothing to send by.
func TestConfirmationOfExpired(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		held := a.hold(typeData)
		a.say(b, "from a")
		synctest.Wait()
		b.lose(typeInitiation, 1)
		b.Begin(a.key.Public())
		b.say(a, "from b")
		synctest.Wait()
		b.port.deliver(*held, a.port)
		wantTexts(t, b, "from a")
		wantTexts(t, a)
		a.port.filter(nil)
		time.Sleep(6 * time.Second)
		wantTexts(t, a, "from b")
	})
}

// Packets that already wait when a session is renewed do not wait for another packet.
func TestRenewWithWaitingPackets(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		a.lose(typeInitiation, 1)
		a.say(b, "x")
		time.Sleep(time.Second)
		a.Renew(b.key.Public())
		wantTexts(t, b, "x")
	})
}

// atOnce has h's loop find a message and the work of Begin together.
func (h *host) atOnce(m []byte, from, other *host) {
	p, _ := h.peer(other.key.Public())
	p.expire()
	p.asks.Store(askReset | askHandshake)
	h.mail.mu.Lock()
	h.mail.messages = append(h.mail.messages, handshakeMessage{m, from.port})
	h.mail.asked = append(h.mail.asked, p)
	h.mail.mu.Unlock()
	h.mail.wake()
	synctest.Wait()
}

// A message that has come is taken before another handshake begins, which then need not be.
func TestMessagesBeforeBegin(t *testing.T) {
	t.Run("initiation", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			a, b := two(t)
			held := a.hold(typeInitiation)
			a.say(b, "x")
			synctest.Wait()
			began, answered := b.count(typeInitiation), b.count(typeResponse)
			b.atOnce(*held, a, a)
			if began.n() != 0 || answered.n() != 1 {
				t.Errorf("%d handshakes begun and %d answered, want the answer alone", began.n(), answered.n())
			}
			wantTexts(t, b, "x")
		})
	})
	t.Run("response", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			a, b := two(t)
			held := b.hold(typeResponse)
			a.say(b, "x")
			synctest.Wait()
			began := a.count(typeInitiation)
			a.atOnce(*held, b, b)
			if n := began.n(); n != 0 {
				t.Errorf("%d handshakes begun though the response was there", n)
			}
			wantTexts(t, b, "x")
		})
	})
}

// A session of a handshake during which our key changed, or the peer was removed, is not kept.
func TestOverBeforeItBegan(t *testing.T) {
	for name, end := range map[string]func(h *host, p *peer){
		"our key changed": func(h *host, _ *peer) { h.SetKey(key.NewNodePrivate()) },
		"peer removed":    func(h *host, p *peer) { h.RemovePeer(p.key) },
	} {
		t.Run(name, func(t *testing.T) {
			h, o := newHost(t, 1), newHost(t, 2)
			h.SetPeer(o.as())
			p, _ := h.peer(o.key.Public())
			id := h.self.Load()
			other := peerOf(o, h)
			_, m, err := o.self.Load().newInitiation(other, 7, newEphemeral(), tai64n.Now())
			if err != nil {
				t.Fatal(err)
			}
			r, from := h.readInitiation(id, m)
			if from != p {
				t.Fatal("a good initiation is not read")
			}
			answered, _, err := r.answer(p, id, h.newIndex(p, owner{}), newEphemeral(), 1)
			if err != nil {
				t.Fatal(err)
			}
			h.index.set(answered.local, owner{session: answered})
			began := &keypair{peer: p, self: id, local: h.newIndex(p, owner{}), initiator: true}
			h.index.set(began.local, owner{session: began})
			end(h, p)
			if h.answered(answered) || h.derived(began) {
				t.Error("a session of before is accepted")
			}
			if n := len(h.index.all()); p.next != nil || p.current.Load() != nil || n != 0 {
				t.Errorf("sessions are left: next %v, current %v, %d indexes", p.next, p.current.Load(), n)
			}
		})
	}
}

// peerOf is h as o knows it.
func peerOf(o, h *host) *peer {
	o.SetPeer(h.as())
	p, _ := o.peer(h.key.Public())
	return p
}

// The same key again changes nothing, not even for a handshake that goes on.
func TestSameKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := two(t)
		held := b.hold(typeResponse)
		a.say(b, "x")
		synctest.Wait()
		a.SetKey(a.key)
		a.port.deliver(*held, b.port)
		wantTexts(t, b, "x")
	})
}

// The secret of both static keys is computed once, and anew when our key changes.
func TestStaticSecretFollowsKey(t *testing.T) {
	a, b := twoSides([key.Size]byte{})
	first, err := a.of.staticShared(a.id)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := a.of.staticShared(a.id)
	if &first[0] != &again[0] {
		t.Error("the secret is computed twice")
	}
	other, err := b.of.staticShared(b.id)
	if err != nil || string(other) != string(first) {
		t.Errorf("the two sides have other secrets: %v", err)
	}
	a.id = newIdentity(key.NewNodePrivate())
	if changed, err := a.of.staticShared(a.id); err != nil || string(changed) == string(first) {
		t.Errorf("the secret stays when the key changes: %v", err)
	}
}

// A handshake makes few allocations: its messages, ephemeral keys, ciphers and the session.
func TestHandshakeAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b := twoSides([key.Size]byte{})
	n := testing.AllocsPerRun(20, func() {
		i, m := a.begin(t, 1)
		_, response := b.answer(t, m, 2)
		if _, err := i.complete(response, 1); err != nil {
			t.Fatal(err)
		}
	})
	if n > 45 {
		t.Errorf("both sides of a handshake allocate %v times, want 45 at most", n)
	}
}
