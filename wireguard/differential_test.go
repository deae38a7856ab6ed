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

	"ginnel/key"
)

// The same scripts run against our device and against wireguard-go's. The device is the responder
// in some scripts and the initiator in others. What the two devices do is compared step by step.

// scriptRun is one run of a script against one subject. The script acts as the subject's only peer.
type scriptRun struct {
	t           testing.TB
	subject     subject
	me          *side
	addr, their netip.Addr // addresses of the script and of the subject
	log         []string   // what the subject did
}

// pause is the time that a subject gets to react to a step.
const pause = 400 * time.Millisecond

// step waits, and logs what the subject has done since the last step.
func (p *scriptRun) step(what string) []sentMessage {
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

func (p *scriptRun) note(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *scriptRun) deliver(b []byte, from string) { p.subject.deliver(b, from) }

// initiation creates an initiation with a MAC1.
func (p *scriptRun) initiation(local uint32) (*initiation, []byte) {
	i, b := p.me.initiate(p.t, local)
	p.me.peer.cookies.AddMacs(b)
	return i, b
}

// response creates a response with a MAC1.
func (p *scriptRun) response(initiation []byte, local uint32) (*keypair, []byte) {
	k, b := p.me.respond(p.t, initiation, local)
	return k, withMAC1(b, p.me.peer.key)
}

// initiate makes the subject initiate a handshake, and returns the initiation.
func (p *scriptRun) initiate() []byte {
	p.subject.send(packet(p.their, p.addr, "hello"))
	b := first(p.step("subject initiates"), typeInitiation)
	if b == nil {
		p.t.Fatal("the subject sent no initiation")
	}
	return b
}

// handshake completes a handshake that the script initiates, and returns the keypair.
func (p *scriptRun) handshake(local uint32) *keypair {
	i, b := p.initiation(local)
	p.deliver(b, "peer")
	response := first(p.step("initiation"), typeResponse)
	if response == nil {
		p.t.Fatal("the initiation was not answered")
	}
	k, err := i.consumeResponse(response, 1)
	if err != nil {
		p.t.Fatal(err)
	}
	return k
}

func first(sent []sentMessage, kind byte) []byte {
	for _, m := range sent {
		if m.b[0] == kind {
			return m.b
		}
	}
	return nil
}

// data returns a transport data message with the usual padding.
func (p *scriptRun) data(k *keypair, counter uint64, plain []byte) []byte {
	b := make([]byte, headerLen+len(plain)+64)
	copy(b[headerLen:], plain)
	var n nonce
	return slices.Clone(k.seal(b, len(plain), 1420, counter, &n))
}

// unpadded returns a transport data message without padding.
func (p *scriptRun) unpadded(k *keypair, counter uint64, plain []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(plain)+tagLen)
	binary.LittleEndian.PutUint32(b, typeTransport)
	binary.LittleEndian.PutUint32(b[4:], k.remoteIndex)
	binary.LittleEndian.PutUint64(b[8:], counter)
	var n nonce
	binary.LittleEndian.PutUint64(n[4:], counter)
	return k.send.Seal(b, n[:], plain, nil)
}

func (p *scriptRun) packet(text string) []byte { return packet(p.addr, p.their, text) }

// perform runs a script against a new subject and returns the log.
func (s *script) perform(t *testing.T, newSubject func(testing.TB, subjectConfig) subject) []string {
	them := key.NewNodePrivate()
	me := &side{k: key.NewNodePrivate()}
	me.id, me.peer = newIdentity(me.k), newPeer(them.Public())
	me.peer.psk.Store(new([key.Size]byte))
	p := &scriptRun{t: t, me: me, addr: netip.MustParseAddr("100.64.0.2"), their: netip.MustParseAddr("100.64.0.1")}
	config := subjectConfig{key: them, peer: me.k.Public(), peerAddr: p.addr}
	if !s.noEndpoint {
		config.endpoint = "peer"
	}
	p.subject = newSubject(t, config)
	defer p.subject.close()
	s.run(p)
	p.note("endpoint %s", p.subject.endpoint())
	return p.log
}

// Our device does the same as wireguard-go's in every script.
func TestLikeReference(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			var want, got []string
			inBubble(t, func(t *testing.T) { want = s.perform(t, newTheirs) })
			inBubble(t, func(t *testing.T) { got = s.perform(t, newOurs) })
			if len(want) != len(got) || len(want) == 0 {
				t.Fatalf("got %d steps, want the %d of the reference:\n%s\n\n%s",
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
