package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// script is a conversation with a subject that decides for itself what to answer.
type script struct {
	name    string
	unknown bool // the subject does not know where its peer is
	run     func(p *play)
}

var scripts = []script{
	{"initiations", false, playInitiations},
	{"changed initiations", false, playChangedInitiations},
	{"initiations with points of low order", false, playLowOrderInitiations},
	{"initiation of a stranger", false, playStranger},
	{"counters", true, playCounters},
	{"contents", false, playContents},
	{"endpoint", false, playEndpoint},
	{"two handshakes of which the first is never used", false, playTwoHandshakes},
	{"three sessions", false, playThreeSessions},
	{"messages out of nothing", false, playUnsolicited},
	{"changed responses", false, playChangedResponses},
	{"responses with points of low order", false, playLowOrderResponses},
	{"response to an earlier attempt", false, playEarlierAttempt},
	{"crossing handshakes", false, playCrossing},
	{"answerer has something to send", false, playAnswererSends},
	{"attempts end when the peer's session is used", false, playConfirmation},
	{"passive keepalive and dead peer", false, playPassive},
	{"reject after three minutes", false, playReject},
}

func playInitiations(p *play) {
	_, old := p.initiation(7)
	time.Sleep(30 * time.Millisecond)
	_, b := p.initiation(8)
	p.deliver(b, "peer")
	p.step("valid initiation")
	p.deliver(b, "peer")
	p.step("same again")
	time.Sleep(50 * time.Millisecond)
	p.deliver(b, "elsewhere")
	p.step("same again later, from elsewhere")
	p.note("endpoint %s", p.subject.endpoint())
	p.deliver(old, "peer")
	p.step("an older one")
	time.Sleep(60 * time.Millisecond)
	_, b = p.initiation(11)
	time.Sleep(18 * time.Millisecond)
	_, c := p.initiation(12)
	p.deliver(b, "peer")
	synctest.Wait() // the reference handles two of one instant at the same time, and may answer both
	p.deliver(c, "peer")
	p.step("two at once")
	time.Sleep(60 * time.Millisecond)
	_, b = p.initiation(13)
	p.deliver(b[:initiationLen-1], "peer")
	p.step("short")
	p.deliver(append(slices.Clone(b), 0), "peer")
	p.step("long")
	for i := 1; i < 4; i++ {
		c := slices.Clone(b)
		c[i] = 1
		p.deliver(remac(c, p.me.of.key), "peer")
		p.step(fmt.Sprint("reserved byte ", i))
	}
	p.deliver(b, "third")
	p.step("valid, from a third place")
}

func playChangedInitiations(p *play) {
	_, b := p.initiation(20)
	for _, m := range tampered(b, p.me.of.key) {
		p.deliver(m, "peer")
		time.Sleep(8 * time.Millisecond)
	}
	p.step("each byte changed")
	p.deliver(b, "peer")
	p.step("the genuine one")
}

func playLowOrderInitiations(p *play) {
	for _, point := range lowOrder {
		_, b := p.initiation(21)
		copy(b[initiationEphemeral:], point[:])
		p.deliver(remac(b, p.me.of.key), "peer")
		p.step(fmt.Sprintf("point %x", point[:4]))
	}
	p.handshake(22)
}

func playStranger(p *play) {
	k := key.NewNodePrivate()
	s := &side{k: k, id: newIdentity(k), of: p.me.of}
	s.of.static = staticSecret{}
	_, b := s.begin(p.t, 30)
	p.deliver(remac(b, p.me.of.key), "peer")
	p.step("initiation")
}

func playCounters(p *play) {
	k := p.handshake(40)
	p.subject.send(packet(p.their, p.addr, "before the session is confirmed"))
	p.step("subject sends before the session is confirmed")
	p.deliver(p.data(k, 0, p.packet("first")), "peer")
	p.step("first data")
	p.deliver(p.data(k, 0, p.packet("first")), "peer")
	p.step("replay of 0")
	p.deliver(p.data(k, 10_000, p.packet("jump")), "peer")
	p.step("jump to 10,000")
	for _, c := range []uint64{1807, 1808, 1809, 1871, 1872, 1873, 1935, 1936, 1937, 9999} {
		p.deliver(p.data(k, c, p.packet("old")), "peer")
		p.step(fmt.Sprint("counter ", c))
	}
	for _, c := range []uint64{1 << 60, rejectAfterMessages - 1, rejectAfterMessages, 1<<64 - 1} {
		p.deliver(p.data(k, c, p.packet("far")), "peer")
		p.step(fmt.Sprint("counter ", c))
	}
}

func playContents(p *play) {
	k := p.handshake(50)
	total := func(n int) []byte {
		b := p.packet("another total length")
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		return b
	}
	headed := func(first byte) []byte {
		b := p.packet("another first byte")
		b[0] = first
		return b
	}
	v6 := packet(netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fd00::1"), "v6")
	mapped := slices.Clone(v6)
	a16 := p.addr.As16()
	copy(mapped[8:], a16[:])
	for n, c := range []struct {
		what  string
		plain []byte
	}{
		{"first", p.packet("x")},
		{"empty", nil},
		{"one byte", []byte{0x45}},
		{"16 zeros", make([]byte, 16)},
		{"20 zeros", make([]byte, 20)},
		{"unpadded", p.packet("abc")},
		{"padded by 100", append(p.packet("abc"), make([]byte, 100)...)},
		{"wrong source", packet(netip.MustParseAddr("100.64.0.77"), p.their, "x")},
		{"wrong destination", packet(p.addr, netip.MustParseAddr("8.8.8.8"), "x")},
		{"total length beyond the end", total(len(total(0)) + 1)},
		{"total length 19", total(19)},
		{"total length 20", total(20)},
		{"version 5", headed(0x55)},
		{"header length 1", headed(0x41)},
		{"IPv6 of nobody", v6},
		{"IPv6 with a mapped source", mapped},
		{"loopback source", packet(netip.MustParseAddr("127.0.0.1"), p.their, "x")},
		{"2,000 bytes", p.packet(strings.Repeat("y", 2000))},
		{"60,000 bytes", p.packet(strings.Repeat("y", 60_000))},
	} {
		p.deliver(p.unpadded(k, uint64(n), c.plain), "peer")
		p.step(c.what)
	}
}

func playEndpoint(p *play) {
	k := p.handshake(55)
	b := p.unpadded(k, 0, p.packet("roams"))
	p.deliver(b, "elsewhere")
	p.step("from elsewhere")
	p.note("endpoint %s", p.subject.endpoint())
	c := p.unpadded(k, 1, p.packet("bad"))
	c[len(c)-1] ^= 1
	p.deliver(c, "attacker")
	p.step("forged by an attacker")
	p.deliver(b, "attacker")
	p.step("replayed by an attacker")
	p.note("endpoint %s", p.subject.endpoint())
	p.deliver(b[:headerLen+tagLen-1], "peer")
	p.step("31 bytes")
	for i := range 3 {
		c := p.unpadded(k, uint64(10+i), p.packet("reserved"))
		c[i+1] = 9
		p.deliver(c, "peer")
		p.step(fmt.Sprint("reserved byte ", i+1))
	}
	p.subject.send(packet(p.their, p.addr, "back"))
	p.step("subject sends")
}

func playTwoHandshakes(p *play) {
	k1 := p.handshake(60)
	time.Sleep(30 * time.Millisecond)
	k2 := p.handshake(61)
	p.deliver(p.data(k1, 0, p.packet("1")), "peer")
	p.step("data by the first")
	p.deliver(p.data(k2, 0, p.packet("2")), "peer")
	p.step("data by the second")
	p.deliver(p.data(k1, 1, p.packet("1")), "peer")
	p.step("data by the first again")
}

func playThreeSessions(p *play) {
	k1 := p.handshake(70)
	p.deliver(p.data(k1, 0, p.packet("1")), "peer")
	p.step("1")
	k2 := p.handshake(71)
	p.deliver(p.data(k1, 1, p.packet("1")), "peer")
	p.step("1 while 2 is unconfirmed")
	p.deliver(p.data(k2, 0, p.packet("2")), "peer")
	p.step("2")
	p.deliver(p.data(k1, 2, p.packet("1")), "peer")
	p.step("1 as the previous one")
	k3 := p.handshake(72)
	p.deliver(p.data(k2, 1, p.packet("2")), "peer")
	p.step("2 while 3 is unconfirmed")
	p.deliver(p.data(k3, 0, p.packet("3")), "peer")
	p.step("3")
	p.deliver(p.data(k1, 4, p.packet("1")), "peer")
	p.step("1 after 3 was used")
	p.deliver(p.data(k2, 2, p.packet("2")), "peer")
	p.step("2 as the previous one")
}

func playUnsolicited(p *play) {
	response := make([]byte, responseLen)
	response[0] = typeResponse
	p.deliver(remac(response, p.me.of.key), "peer")
	p.step("a response to nothing")
	cookie := make([]byte, cookieLen)
	cookie[0] = typeCookie
	p.deliver(cookie, "peer")
	p.step("a cookie for nothing")
	for kind := range 256 {
		if kind != typeInitiation && kind != typeResponse {
			b := make([]byte, 200)
			b[0] = byte(kind)
			p.deliver(b, "peer")
		}
	}
	p.step("all other types")
}

func playChangedResponses(p *play) {
	k, response := p.response(p.begin(), 80)
	for _, m := range tampered(response, p.me.of.key) {
		p.deliver(m, "peer")
		time.Sleep(8 * time.Millisecond)
	}
	p.step("each byte changed")
	p.deliver(response, "peer")
	if data := first(p.step("the genuine one"), typeData); data != nil {
		var n nonce
		plain, ok := k.open(data, &n)
		p.note("opens: %v, %d bytes", ok, len(plain))
	}
	p.deliver(response, "peer")
	p.step("the same again")
}

func playLowOrderResponses(p *play) {
	_, response := p.response(p.begin(), 81)
	for _, point := range lowOrder {
		forged := slices.Clone(response)
		copy(forged[responseEphemeral:], point[:])
		p.deliver(remac(forged, p.me.of.key), "attacker")
		p.step(fmt.Sprintf("point %x", point[:4]))
	}
	p.deliver(response, "peer")
	p.step("the genuine one")
	time.Sleep(time.Second)
	p.step("a second later")
}

func playEarlierAttempt(p *play) {
	b := p.begin()
	time.Sleep(5600*time.Millisecond - pause)
	second := first(p.step("second attempt"), typeInitiation)
	_, response := p.response(b, 82)
	p.deliver(response, "peer")
	p.step("response to the first")
	_, response = p.response(second, 83)
	p.deliver(response, "elsewhere")
	p.step("response to the second, from elsewhere")
}

// The script's own initiation crosses the subject's, and its session is the one that is used.
func playCrossing(p *play) {
	p.begin()
	k := p.handshake(85)
	p.confirm(k)
	time.Sleep(20 * time.Second)
	p.step("20 s later")
}

// confirm delivers the first data of a session for which a packet of the subject waits. Data bring
// that packet on its way, and a keepalive is due if it left before they counted as received, which
// neither implementation decides. The packet sent after it settles that.
func (p *play) confirm(k *keypair) {
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	p.subject.send(packet(p.their, p.addr, "y"))
	p.step("subject sends")
}

func playAnswererSends(p *play) {
	k := p.handshake(86)
	p.subject.send(packet(p.their, p.addr, "waits"))
	time.Sleep(3 * time.Second)
	p.step("subject sends before the session is confirmed")
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(8 * time.Second)
	p.step("8 s later")
}

func playConfirmation(p *play) {
	p.begin()
	time.Sleep(4 * time.Second)
	k := p.handshake(87)
	time.Sleep(2 * time.Second)
	p.step("when the next attempt would be due")
	p.confirm(k)
	time.Sleep(12 * time.Second)
	p.step("12 s later")
}

func playPassive(p *play) {
	k := p.handshake(90)
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(10100 * time.Millisecond)
	p.step("10 s later")
	p.subject.send(packet(p.their, p.addr, "y"))
	p.step("subject sends")
	time.Sleep(15700 * time.Millisecond)
	p.step("15 s later")
}

func playReject(p *play) {
	k := p.handshake(95)
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(181 * time.Second)
	p.step("three minutes later")
	p.deliver(p.data(k, 1, p.packet("old")), "peer")
	p.step("data by the old session")
	p.subject.send(packet(p.their, p.addr, "y"))
	p.step("subject sends")
}
