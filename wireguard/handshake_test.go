package wireguard

import (
	"testing"
	"testing/synctest"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/key"
)

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
