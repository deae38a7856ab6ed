package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
)

// Conversations of two devices, each ours or wireguard-go's. The same conversation runs in all four
// combinations, and the packets that arrive have to be the same in all of them.
//
// Two differences in the number of handshakes are intended. wireguard-go has one handshake per
// peer: if both sides initiate at once, each discards its own, and retransmits. We keep both. And
// if a responder has a packet to send and the keypair is not confirmed within Rekey-Timeout, we
// initiate a handshake, while wireguard-go waits for the next packet.

// mixedPair is two devices with a network between them.
type mixedPair struct {
	t     *testing.T
	sides [2]subject
	addrs [2]netip.Addr
	lose  func(from int, m []byte) bool // decides which messages are lost; nil means none

	texts    [2][]string // of the packets that each side has received
	messages [2][]byte   // types of the messages that each side has sent, in order
}

var mixedNames = [2]string{"side0", "side1"}

func newMixedPair(t *testing.T, make0, make1 func(testing.TB, subjectConfig) subject) *mixedPair {
	p := &mixedPair{t: t, addrs: [2]netip.Addr{vectorInitiatorAddr, vectorResponderAddr}}
	keys := [2]key.NodePrivate{vectorInitiator, vectorResponder}
	for i, newSubject := range []func(testing.TB, subjectConfig) subject{make0, make1} {
		p.sides[i] = newSubject(t, subjectConfig{
			key: keys[i], peer: keys[1-i].Public(), peerAddr: p.addrs[1-i], endpoint: mixedNames[1-i], psk: vectorPSK,
		})
	}
	return p
}

func (p *mixedPair) close() {
	for _, s := range p.sides {
		s.close()
	}
}

// settle passes messages on until both sides are silent.
func (p *mixedPair) settle() {
	for again := true; again; {
		again = false
		synctest.Wait()
		for i, s := range p.sides {
			sent, packets := s.take()
			for _, b := range packets {
				p.texts[i] = append(p.texts[i], text(b))
			}
			for _, m := range sent {
				again = true
				p.messages[i] = append(p.messages[i], m.b[0])
				if p.lose == nil || !p.lose(i, m.b) {
					p.sides[1-i].deliver(m.b, mixedNames[i])
				}
			}
		}
	}
}

// send makes a side send a packet, and passes the messages on.
func (p *mixedPair) send(from int, text string) {
	p.sides[from].send(packet(p.addrs[from], p.addrs[1-from], text))
	p.settle()
}

// sleep lets time pass in small steps.
func (p *mixedPair) sleep(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(100*time.Millisecond, time.Until(end)))
		p.settle()
	}
}

// count returns how many messages of a type a side has sent.
func (p *mixedPair) count(side int, kind byte) (n int) {
	for _, k := range p.messages[side] {
		if k == kind {
			n++
		}
	}
	return n
}

// loseFirst loses the first n messages of a type that a side sends.
func (p *mixedPair) loseFirst(side int, kind byte, n int) {
	p.lose = func(from int, m []byte) bool {
		if from != side || m[0] != kind || n == 0 {
			return false
		}
		n--
		return true
	}
}

// conversation is what both devices send and when.
type conversation struct {
	name      string
	converse  func(p *mixedPair)
	countMode countMode
}

// countMode says whether the number of handshakes has to be the same in all combinations.
type countMode int

const (
	sameHandshakes countMode = iota
	anyHandshakes            // see the differences above
)

var conversations = []conversation{
	{"both directions", func(p *mixedPair) {
		for i := range 20 {
			p.send(i%2, fmt.Sprint("packet ", i))
		}
	}, sameHandshakes},
	{"both initiate", func(p *mixedPair) {
		for i := range 2 {
			p.sides[i].send(packet(p.addrs[i], p.addrs[1-i], "at once"))
		}
		p.settle()
		p.sleep(12 * time.Second)
		for i := range 2 {
			p.send(i, "later")
		}
	}, anyHandshakes},
	{"initiations lost", func(p *mixedPair) {
		p.loseFirst(0, typeInitiation, 2)
		p.send(0, "staged")
		p.sleep(12 * time.Second)
		p.send(1, "back")
	}, sameHandshakes},
	{"response lost", func(p *mixedPair) {
		p.loseFirst(1, typeResponse, 1)
		p.send(0, "staged")
		p.sleep(7 * time.Second)
		p.send(1, "back")
	}, sameHandshakes},
	{"first data lost", func(p *mixedPair) {
		p.loseFirst(0, typeTransport, 1)
		p.send(0, "lost")
		p.send(1, "staged until the keypair is confirmed")
		p.sleep(7 * time.Second)
		p.send(0, "arrives")
	}, anyHandshakes},
	{"580 seconds both ways", func(p *mixedPair) {
		for i := range 580 {
			p.send(i%2, fmt.Sprint("packet ", i))
			p.sleep(time.Second)
		}
	}, sameHandshakes},
	{"580 seconds one way", func(p *mixedPair) {
		p.send(0, "hello")
		for i := range 580 {
			p.send(1, fmt.Sprint("packet ", i))
			p.sleep(time.Second)
		}
	}, sameHandshakes},
	{"idle", func(p *mixedPair) {
		for i := range 4 {
			p.send(i%2, fmt.Sprint("packet ", i))
			p.sleep(4 * time.Minute)
		}
	}, sameHandshakes},
}

// Every combination of our device and wireguard-go's delivers the same packets in the same order.
func TestMixedPairs(t *testing.T) {
	kinds := []struct {
		name string
		make func(testing.TB, subjectConfig) subject
	}{{"wireguard-go", newTheirs}, {"ours", newOurs}}
	for _, c := range conversations {
		t.Run(c.name, func(t *testing.T) {
			var want *mixedPair // wireguard-go on both sides
			for _, first := range kinds {
				for _, second := range kinds {
					inBubble(t, func(t *testing.T) {
						p := newMixedPair(t, first.make, second.make)
						defer p.close()
						c.converse(p)
						if want == nil {
							want = p
						}
						wantSamePackets(t, first.name+" with "+second.name, p, want)
						if c.countMode == sameHandshakes {
							wantSameHandshakes(t, first.name+" with "+second.name, p, want)
						}
					})
				}
			}
		})
	}
}

func wantSamePackets(t *testing.T, name string, got, want *mixedPair) {
	t.Helper()
	for i := range 2 {
		if !slices.Equal(got.texts[i], want.texts[i]) {
			t.Errorf("%s: side %d received %q, want %q", name, i, got.texts[i], want.texts[i])
		}
	}
}

func wantSameHandshakes(t *testing.T, name string, got, want *mixedPair) {
	t.Helper()
	for i := range 2 {
		for _, kind := range []byte{typeInitiation, typeResponse} {
			if g, w := got.count(i, kind), want.count(i, kind); g != w {
				t.Errorf("%s: side %d sent %d messages of type %d, want %d", name, i, g, kind, w)
			}
		}
	}
}
