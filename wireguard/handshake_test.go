package wireguard

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

// A responder does not initiate a handshake for five seconds, whatever requests it. It does so
// afterwards if the peer has not used the keypair.
func TestResponderWaits(t *testing.T) {
	for name, request := range map[string]func(a, b *host){
		"packet": func(a, b *host) { b.sendText(a, "y") },
		"persistent keepalive": func(a, b *host) {
			p := a.asPeer()
			p.Keepalive = time.Second
			b.SetPeer(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPair(t)
				a.lose(typeTransport, 1000)
				initiations := b.count(typeInitiation)
				a.sendText(b, "x")
				synctest.Wait()
				request(a, b)
				time.Sleep(5*time.Second - time.Millisecond)
				if n := initiations.n(); n != 0 {
					t.Errorf("the responder sent %d initiations, want none", n)
				}
				time.Sleep(2 * time.Second)
				if n := initiations.n(); n != 1 {
					t.Errorf("the responder sent %d initiations after the keypair was not used, want 1", n)
				}
			})
		})
	}
}

// Our own handshake is postponed when we answer the peer, and cancelled when the peer uses that
// keypair.
func TestConfirmationCancelsInitiation(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		b.lose(typeInitiation, 1)
		initiations := b.count(typeInitiation)
		b.sendText(a, "from b")
		time.Sleep(4900 * time.Millisecond)
		a.lose(typeTransport, 1)
		a.sendText(b, "lost")
		time.Sleep(4 * time.Second)
		if n := initiations.n(); n != 1 {
			t.Errorf("got %d initiations while the peer has a keypair to use, want only the first", n)
		}
		a.sendText(b, "from a")
		wantTexts(t, b, "from a")
		wantTexts(t, a, "from b")
		b.sendText(a, "again")
		wantTexts(t, a, "again")
		time.Sleep(time.Minute)
		if n := initiations.n(); n != 1 {
			t.Errorf("got %d initiations with a confirmed keypair, want only the first", n)
		}
	})
}

// When the peer uses a keypair that we have closed meanwhile, our own handshake goes on, because
// there is no keypair to send with.
func TestConfirmationOfClosed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		held := a.intercept(typeTransport)
		a.sendText(b, "from a")
		synctest.Wait()
		b.lose(typeInitiation, 1)
		b.StartHandshake(a.key.Public())
		b.sendText(a, "from b")
		synctest.Wait()
		b.port.deliver(*held, a.port)
		wantTexts(t, b, "from a")
		wantTexts(t, a)
		a.port.filter(nil)
		time.Sleep(6 * time.Second)
		wantTexts(t, a, "from b")
	})
}

// ExpireKeypairs starts a handshake for packets that are already staged.
func TestExpireWithStagedPackets(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		a.lose(typeInitiation, 1)
		a.sendText(b, "x")
		time.Sleep(time.Second)
		a.ExpireKeypairs(b.key.Public())
		wantTexts(t, b, "x")
	})
}

// deliverWithRequest makes h's runHandshakes find a message and the request of StartHandshake in
// the queues at the same time.
func (h *host) deliverWithRequest(m []byte, from, other *host) {
	p, _ := h.peer(other.key.Public())
	p.closeKeypairs()
	p.requested.Store(reqReset | reqHandshake)
	h.requests.mu.Lock()
	h.requests.messages = append(h.requests.messages, handshakeMessage{m, from.port})
	h.requests.peers = append(h.requests.peers, p)
	h.requests.mu.Unlock()
	h.requests.wake()
	synctest.Wait()
}

// A queued message is handled before a queued request starts a handshake, which is then
// unnecessary.
func TestMessagesBeforeRequests(t *testing.T) {
	t.Run("initiation", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			a, b := newPair(t)
			held := a.intercept(typeInitiation)
			a.sendText(b, "x")
			synctest.Wait()
			initiations, responses := b.count(typeInitiation), b.count(typeResponse)
			b.deliverWithRequest(*held, a, a)
			if initiations.n() != 0 || responses.n() != 1 {
				t.Errorf("got %d initiations and %d responses, want only a response", initiations.n(), responses.n())
			}
			wantTexts(t, b, "x")
		})
	})
	t.Run("response", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			a, b := newPair(t)
			held := b.intercept(typeResponse)
			a.sendText(b, "x")
			synctest.Wait()
			initiations := a.count(typeInitiation)
			a.deliverWithRequest(*held, b, b)
			if n := initiations.n(); n != 0 {
				t.Errorf("got %d initiations although the response was queued", n)
			}
			wantTexts(t, b, "x")
		})
	})
}

// A keypair is dropped if our key changed, or the peer was removed, during its handshake.
func TestStaleKeypair(t *testing.T) {
	for name, end := range map[string]func(h *host, p *peer){
		"our key changed": func(h *host, _ *peer) { h.SetKey(key.NewNodePrivate()) },
		"peer removed":    func(h *host, p *peer) { h.RemovePeer(p.key) },
	} {
		t.Run(name, func(t *testing.T) {
			h, o := newHost(t, 1), newHost(t, 2)
			h.SetPeer(o.asPeer())
			p, _ := h.peer(o.key.Public())
			id := h.self.Load()
			other := peerOf(o, h)
			_, m, err := o.self.Load().createInitiation(other, 7, newEphemeral(), tai64n.Now())
			if err != nil {
				t.Fatal(err)
			}
			r, from := h.consumeInitiation(id, m)
			if from != p {
				t.Fatal("a genuine initiation is refused")
			}
			asResponder, _, err := r.createResponse(p, id, h.newIndex(p, indexEntry{}), newEphemeral(), 1)
			if err != nil {
				t.Fatal(err)
			}
			h.indices.set(asResponder.localIndex, indexEntry{keypair: asResponder})
			asInitiator := &keypair{peer: p, self: id, localIndex: h.newIndex(p, indexEntry{}), isInitiator: true}
			h.indices.set(asInitiator.localIndex, indexEntry{keypair: asInitiator})
			end(h, p)
			if h.addAsResponder(asResponder) || h.addAsInitiator(asInitiator) {
				t.Error("a stale keypair is accepted")
			}
			if n := len(h.indices.all()); p.next != nil || p.current.Load() != nil || n != 0 {
				t.Errorf("keypairs are left: next %v, current %v, %d indices", p.next, p.current.Load(), n)
			}
		})
	}
}

// peerOf adds h to the peers of o and returns that peer.
func peerOf(o, h *host) *peer {
	o.SetPeer(h.asPeer())
	p, _ := o.peer(h.key.Public())
	return p
}

// SetKey with the same key changes nothing, not even a handshake that is running.
func TestSameKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPair(t)
		held := b.intercept(typeResponse)
		a.sendText(b, "x")
		synctest.Wait()
		a.SetKey(a.key)
		a.port.deliver(*held, b.port)
		wantTexts(t, b, "x")
	})
}

// The static-static secret is computed once per key of ours.
func TestStaticSecretFollowsKey(t *testing.T) {
	a, b := twoSides([key.Size]byte{})
	first, err := a.peer.staticStatic(a.id)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := a.peer.staticStatic(a.id)
	if &first[0] != &second[0] {
		t.Error("the secret is computed twice")
	}
	other, err := b.peer.staticStatic(b.id)
	if err != nil || string(other) != string(first) {
		t.Errorf("the two sides have different secrets: %v", err)
	}
	a.id = newIdentity(key.NewNodePrivate())
	if changed, err := a.peer.staticStatic(a.id); err != nil || string(changed) == string(first) {
		t.Errorf("the secret did not change with the key: %v", err)
	}
}

// A handshake allocates little more than its messages, ephemeral keys, AEADs and keypairs.
func TestHandshakeAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b := twoSides([key.Size]byte{})
	n := testing.AllocsPerRun(20, func() {
		i, m := a.initiate(t, 1)
		_, response := b.respond(t, m, 2)
		if _, err := i.consumeResponse(response, 1); err != nil {
			t.Fatal(err)
		}
	})
	if n > 45 {
		t.Errorf("both sides of a handshake: %v allocations, want at most 45", n)
	}
}
