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

// The same scripts are played to our device and to wireguard-go's, in the roles of the responder
// and of the initiator, and what each does is compared step by step.

// play is a script as it is played to one subject. The script is the subject's only peer.
type play struct {
	t           testing.TB
	subject     subject
	me          *side
	addr, their netip.Addr // of the script and the subject
	log         []string   // what was seen
}

// pause is between a step and the look at what came of it.
const pause = 400 * time.Millisecond

// step waits, and notes what the subject has done since the last step.
func (p *play) step(what string) []posted {
	p.t.Helper()
	time.Sleep(pause)
	synctest.Wait()
	sent, packets := p.subject.take()
	line := what + ":"
	for _, m := range sent {
		line += fmt.Sprintf(" type %d of %d bytes to %s;", m.b[0], len(m.b), m.to)
	}
	for _, b := range packets {
		line += fmt.Sprintf(" packet of %d bytes;", len(b))
	}
	p.log = append(p.log, line)
	return sent
}

func (p *play) note(format string, args ...any) { p.log = append(p.log, fmt.Sprintf(format, args...)) }

func (p *play) deliver(b []byte, from string) { p.subject.deliver(b, from) }

// initiation makes one, with a MAC1.
func (p *play) initiation(local uint32) (*initiation, []byte) {
	i, b := p.me.begin(p.t, local)
	p.me.of.cookies.AddMacs(b)
	return i, b
}

// response makes one, with a MAC1.
func (p *play) response(initiation []byte, local uint32) (*keypair, []byte) {
	k, b := p.me.answer(p.t, initiation, local)
	return k, remac(b, p.me.of.key)
}

// begin has the subject begin a handshake, and returns its initiation.
func (p *play) begin() []byte {
	p.subject.send(packet(p.their, p.addr, "hello"))
	b := first(p.step("subject begins"), typeInitiation)
	if b == nil {
		p.t.Fatal("the subject does not begin")
	}
	return b
}

// handshake makes a session.
func (p *play) handshake(local uint32) *keypair {
	i, b := p.initiation(local)
	p.deliver(b, "peer")
	response := first(p.step("initiation"), typeResponse)
	if response == nil {
		p.t.Fatal("an initiation is not answered")
	}
	k, err := i.complete(response, 1)
	if err != nil {
		p.t.Fatal(err)
	}
	return k
}

func first(sent []posted, kind byte) []byte {
	for _, m := range sent {
		if m.b[0] == kind {
			return m.b
		}
	}
	return nil
}

// data makes a message, padded as usual.
func (p *play) data(k *keypair, counter uint64, plain []byte) []byte {
	b := make([]byte, headerLen+len(plain)+64)
	copy(b[headerLen:], plain)
	var n nonce
	return slices.Clone(k.seal(b, len(plain), 1420, counter, &n))
}

// unpadded makes a message of exactly plain.
func (p *play) unpadded(k *keypair, counter uint64, plain []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(plain)+tagLen)
	binary.LittleEndian.PutUint32(b, typeData)
	binary.LittleEndian.PutUint32(b[4:], k.remote)
	binary.LittleEndian.PutUint64(b[8:], counter)
	var n nonce
	binary.LittleEndian.PutUint64(n[4:], counter)
	return k.send.Seal(b, n[:], plain, nil)
}

func (p *play) packet(text string) []byte { return packet(p.addr, p.their, text) }

// perform plays a script to a subject and returns what was seen.
func (s *script) perform(t *testing.T, make func(testing.TB, setting) subject) []string {
	them := key.NewNodePrivate()
	me := &side{k: key.NewNodePrivate()}
	me.id, me.of = newIdentity(me.k), newPeer(them.Public())
	me.of.psk.Store(new([key.Size]byte))
	p := &play{t: t, me: me, addr: netip.MustParseAddr("100.64.0.2"), their: netip.MustParseAddr("100.64.0.1")}
	settings := setting{key: them, peer: me.k.Public(), peerAddr: p.addr}
	if !s.unknown {
		settings.endpoint = "peer"
	}
	p.subject = make(t, settings)
	defer p.subject.close()
	s.run(p)
	p.note("endpoint %s", p.subject.endpoint())
	return p.log
}

// Our device does what wireguard-go's does, in every script.
func TestLikeReference(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			var want, got []string
			inBubble(t, func(t *testing.T) { want = s.perform(t, newTheirs) })
			inBubble(t, func(t *testing.T) { got = s.perform(t, newOurs) })
			if len(want) != len(got) || len(want) == 0 {
				t.Fatalf("%d steps, the reference has %d:\n%s\n\n%s",
					len(got), len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("step %d\n     got %s\n    want %s", i, got[i], want[i])
				}
			}
		})
	}
}
