package wireguard

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Scripts about cookies, indices, timestamps and single bytes.

func scriptOneTick(p *scriptRun) {
	_, first := p.initiation(100)
	_, second := p.initiation(101) // in the fake time of the bubble both have the same timestamp
	p.deliver(first, "peer")
	p.step("first")
	p.deliver(second, "elsewhere")
	p.step("second, with the same timestamp")
	p.handshake(102)
}

// cookieReply returns the script's cookie reply to a handshake message of the subject.
func (p *scriptRun) cookieReply(m []byte) []byte {
	reply, err := p.me.id.cookies.CreateReply(m, binary.LittleEndian.Uint32(m[initiationSender:]), []byte("subject"))
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := binary.Append(nil, binary.LittleEndian, reply)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// noteMAC2 logs whether a handshake message of the subject has a MAC2, and whether it is valid.
func (p *scriptRun) noteMAC2(m []byte) {
	if m == nil {
		p.note("no handshake message")
		return
	}
	present := !slices.Equal(m[len(m)-mac2Len:], make([]byte, mac2Len))
	p.note("MAC2 present %v, valid %v", present, p.me.id.cookies.CheckMAC2(m, []byte("subject")))
}

func scriptCookieReply(p *scriptRun) {
	b := p.initiate()
	p.noteMAC2(b)
	p.deliver(p.cookieReply(b), "elsewhere")
	p.step("cookie reply from elsewhere")
	p.note("endpoint %s", p.subject.endpoint())
	time.Sleep(5600*time.Millisecond - 2*pause)
	b = first(p.step("second initiation"), typeInitiation)
	p.noteMAC2(b)
	k, response := p.response(b, 110)
	p.deliver(response, "peer")
	p.step("response")
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(130 * time.Second) // the cookie is older than Cookie-Refresh-Time
	p.subject.send(packet(p.their, p.addr, "y"))
	p.noteMAC2(first(p.step("subject sends"), typeInitiation))
}

func scriptCookieReplyToResponse(p *scriptRun) {
	_, b := p.initiation(111)
	p.deliver(b, "peer")
	response := first(p.step("initiation"), typeResponse)
	p.noteMAC2(response)
	p.deliver(p.cookieReply(response), "elsewhere")
	p.step("cookie reply from elsewhere")
	p.note("endpoint %s", p.subject.endpoint())
	_, b = p.initiation(112)
	p.deliver(b, "peer")
	p.noteMAC2(first(p.step("initiation"), typeResponse))
}

func scriptTamperedCookieReply(p *scriptRun) {
	b := p.initiate()
	reply := p.cookieReply(b)
	for n := range reply {
		c := slices.Clone(reply)
		c[n] ^= 0x41
		p.deliver(c, "attacker")
		time.Sleep(8 * time.Millisecond)
	}
	p.step("each byte changed")
	p.note("endpoint %s", p.subject.endpoint())
	time.Sleep(5600*time.Millisecond - 2*pause)
	b = first(p.step("second initiation"), typeInitiation)
	p.noteMAC2(b)
	p.deliver(reply, "peer")
	p.step("the reply to the first initiation")
	time.Sleep(5600*time.Millisecond - 2*pause)
	p.noteMAC2(first(p.step("third initiation"), typeInitiation))
}

func scriptTamperedTransport(p *scriptRun) {
	k := p.handshake(120)
	for counter, name := range []string{"unconfirmed", "confirmed"} {
		m := p.data(k, uint64(counter), p.packet("x"))
		for n := range m {
			c := slices.Clone(m)
			c[n] ^= 0x41
			p.deliver(c, "attacker")
			time.Sleep(time.Millisecond)
		}
		p.step("each byte changed, keypair " + name)
		p.note("endpoint %s", p.subject.endpoint())
		p.deliver(m, "peer")
		p.step("genuine message")
	}
}

func scriptReceiverIndices(p *scriptRun) {
	k := p.handshake(130)
	time.Sleep(6 * time.Second) // until Rekey-Timeout has passed the subject initiates nothing
	b := p.initiate()
	pending := binary.LittleEndian.Uint32(b[initiationSender:])
	for _, index := range []uint32{pending, k.remoteIndex + 1, k.localIndex, 0} {
		m := p.data(k, 0, p.packet("x"))
		binary.LittleEndian.PutUint32(m[transportReceiver:], index)
		p.deliver(m, "attacker")
		p.step("data under another receiver index")
		_, response := p.response(b, 131)
		binary.LittleEndian.PutUint32(response[responseReceiver:], index^1)
		p.deliver(withMAC1(response, p.me.peer.key), "attacker")
		p.step("response under another receiver index")
	}
	_, response := p.response(b, 132)
	binary.LittleEndian.PutUint32(response[responseReceiver:], k.remoteIndex)
	p.deliver(withMAC1(response, p.me.peer.key), "attacker")
	p.step("response under the receiver index of a keypair")
	p.note("endpoint %s", p.subject.endpoint())
	k, response = p.response(b, 133)
	p.deliver(response, "peer")
	p.step("genuine response")
	for counter := range 2 {
		p.deliver(p.data(k, uint64(counter), p.packet(fmt.Sprint(counter))), "peer")
		p.step("data")
	}
}
