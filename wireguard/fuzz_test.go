package wireguard

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// fuzzDevice is a device in one state of the fixed exchange of vectors_test.go. It is not up: it
// receives and handles messages in the goroutine of the test.
type fuzzDevice struct {
	h       *host
	peer    *host // only its key is set
	loop    *handshakeLoop
	index   uint32   // its receiver index in the exchange
	genuine [][]byte // the messages of the exchange that it accepts in this state
	sent    int      // number of messages sent so far
}

// fuzzStates make a device in each state of the exchange in which it expects a message.
var fuzzStates = []func(testing.TB, *vectors) *fuzzDevice{newFuzzResponder, newFuzzInitiator, newFuzzEstablished}

// newFuzzResponder returns the responder after it has sent the response. It still accepts the
// initiation, because it has not recorded its timestamp.
func newFuzzResponder(tb testing.TB, v *vectors) *fuzzDevice {
	d := newFuzzDevice(vectorHost(vectorResponder, vectorInitiator, vectorInitiatorAddr))
	d.peer, d.index = &host{key: vectorInitiator}, vectorResponderIndex
	p, _ := d.h.peer(vectorInitiator.Public())
	r, _ := d.h.consumeInitiation(d.h.self.Load(), v.initiation)
	k, _, err := r.createResponse(p, d.h.self.Load(), vectorResponderIndex,
		x25519Private(tb, vectorResponderEphemeral), d.h.now())
	if err != nil {
		tb.Fatal(err)
	}
	d.h.indices.set(vectorResponderIndex, indexEntry{keypair: k})
	d.h.addAsResponder(k)
	d.genuine = [][]byte{v.initiation, v.hello, v.keepalive}
	return d
}

// newFuzzInitiator returns the initiator after it has sent the initiation.
func newFuzzInitiator(tb testing.TB, v *vectors) *fuzzDevice {
	d := newFuzzDevice(vectorHost(vectorInitiator, vectorResponder, vectorResponderAddr))
	d.peer, d.index = &host{key: vectorResponder}, vectorInitiatorIndex
	p, _ := d.h.peer(vectorResponder.Public())
	i, b, err := d.h.self.Load().createInitiation(p, vectorInitiatorIndex,
		x25519Private(tb, vectorInitiatorEphemeral), vectorTimestamp())
	if err != nil {
		tb.Fatal(err)
	}
	p.cookies.AddMacs(b)
	d.h.indices.set(vectorInitiatorIndex, indexEntry{peer: p})
	p.initiation = i
	d.genuine = [][]byte{v.response, v.cookieReply}
	return d
}

// newFuzzEstablished returns the initiator after it has received the response.
func newFuzzEstablished(tb testing.TB, v *vectors) *fuzzDevice {
	d := newFuzzInitiator(tb, v)
	d.deliver(v.response)
	d.genuine = [][]byte{v.reply, v.cookieReply}
	return d
}

func newFuzzDevice(h *host) *fuzzDevice {
	d := &fuzzDevice{h: h}
	d.loop = newHandshakeLoop(h.Device)
	h.port.filter(func([]byte, *port) bool {
		d.sent++
		return false
	})
	return d
}

// deliver makes the device receive and handle a message.
func (d *fuzzDevice) deliver(m []byte) {
	d.h.admission.init() // each message finds the device without load
	d.h.admission.perSource.limiters = nil
	d.h.receive([][]byte{slices.Clone(m)}, fuzzAttacker)
	d.loop.handleRequests()
}

var fuzzAttacker = newPort("attacker")

// isGenuine reports whether m is one of the genuine messages, apart from two fields: the sender
// index of a handshake message with a valid MAC1, because only MAC1 authenticates it, and MAC2,
// because it is only checked under load.
func (d *fuzzDevice) isGenuine(m []byte) bool {
	return slices.ContainsFunc(d.genuine, func(g []byte) bool {
		return bytes.Equal(d.authenticated(m), d.authenticated(g))
	})
}

// authenticated returns m without the fields that isGenuine ignores.
func (d *fuzzDevice) authenticated(m []byte) []byte {
	var checker mac1Checker
	if len(m) < 4 || !isHandshake(m) || messageType(m) == typeCookieReply || !checker.valid(d.h.self.Load(), m) {
		return m
	}
	m = slices.Clone(m)
	clear(m[initiationSender : initiationSender+4])
	clear(m[len(m)-macsLen:])
	return m
}

// check delivers a message. It reports whether the message is genuine, in which case the state of
// the device has changed. Any other message must change nothing, send nothing and deliver nothing.
func (d *fuzzDevice) check(t *testing.T, m []byte) bool {
	t.Helper()
	genuine := d.isGenuine(m)
	before, bogus, sent := snapshotOf(t, d.h, d.peer), d.h.Dropped().Bogus, d.sent
	d.deliver(m)
	refused := d.h.Dropped().Bogus == bogus+1
	if refused == genuine {
		t.Fatalf("message %x: genuine %v, refused %v", m, genuine, refused)
	}
	texts := d.h.tun.take()
	if genuine {
		for _, s := range texts {
			if s != "hello" && s != "reply" {
				t.Fatalf("message %x: delivered %q", m, s)
			}
		}
		return true
	}
	if len(texts) != 0 || d.sent != sent {
		t.Fatalf("message %x is forged: delivered %q, sent %d messages", m, texts, d.sent-sent)
	}
	if snapshotOf(t, d.h, d.peer) != before {
		t.Fatalf("message %x is forged: the state changed", m)
	}
	return false
}

// variants returns m, and copies that come further: with a receiver index that is in use, and with
// a valid MAC1.
func (d *fuzzDevice) variants(m []byte) [][]byte {
	all := [][]byte{m}
	for _, offset := range []int{transportReceiver, responseReceiver} {
		if len(m) >= offset+4 {
			c := slices.Clone(m)
			binary.LittleEndian.PutUint32(c[offset:], d.index)
			all = append(all, c)
		}
	}
	for _, c := range all {
		if len(c) >= 4 && isHandshake(c) && messageType(c) != typeCookieReply {
			all = append(all, withMAC1(c, d.h.key.Public()))
		}
	}
	return all
}

// A device delivers and accepts nothing except the genuine messages of an exchange. The fuzzer
// starts from those messages.
func FuzzReceive(f *testing.F) {
	v := wantVectors(f)
	for _, m := range [][]byte{v.initiation, v.cookieReply, v.response, v.hello, v.reply, v.keepalive} {
		f.Add(m)
	}
	f.Add([]byte{})
	devices := make([]*fuzzDevice, len(fuzzStates))
	f.Fuzz(func(t *testing.T, m []byte) {
		for i, newDevice := range fuzzStates {
			// Keypairs expire in real time.
			if devices[i] == nil || devices[i].h.now() > int64(time.Minute) {
				devices[i] = newDevice(t, v)
			}
			for _, c := range devices[i].variants(m) {
				if devices[i].check(t, c) {
					devices[i] = newDevice(t, v)
				}
			}
		}
	})
}

// The genuine messages of the fixed exchange are accepted in their states and refused in the
// others. This shows that FuzzReceive would notice a forged message that is accepted.
func TestFuzzStates(t *testing.T) {
	v := wantVectors(t)
	for i, newDevice := range fuzzStates {
		accepted := 0
		for _, m := range [][]byte{v.initiation, v.cookieReply, v.response, v.hello, v.reply, v.keepalive} {
			if newDevice(t, v).check(t, m) {
				accepted++
			}
		}
		if want := len(newDevice(t, v).genuine); accepted != want {
			t.Errorf("state %d: accepted %d messages, want %d", i, accepted, want)
		}
	}
}
