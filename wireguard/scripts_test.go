package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"ginnel/key"
)

// script is a sequence of messages and packets for a subject.
type script struct {
	name       string
	noEndpoint bool // the subject is not told the endpoint of its peer
	run        func(p *scriptRun)
}

var scripts = []script{
	{"initiations", false, scriptInitiations},
	{"changed initiations", false, scriptChangedInitiations},
	{"initiations with low-order points", false, scriptLowOrderInitiations},
	{"initiation of an unknown peer", false, scriptUnknownPeer},
	{"two initiations in one TAI64N tick", false, scriptOneTick},
	{"counters", true, scriptCounters},
	{"cookie reply to an initiation", false, scriptCookieReply},
	{"cookie reply to a response", false, scriptCookieReplyToResponse},
	{"tampered cookie reply", false, scriptTamperedCookieReply},
	{"tampered transport data", false, scriptTamperedTransport},
	{"receiver indices of other messages", false, scriptReceiverIndices},
	{"contents", false, scriptContents},
	{"endpoint", false, scriptEndpoint},
	{"two handshakes, the first keypair never used", false, scriptTwoHandshakes},
	{"three keypairs", false, scriptThreeKeypairs},
	{"unsolicited messages", false, scriptUnsolicited},
	{"changed responses", false, scriptChangedResponses},
	{"responses with low-order points", false, scriptLowOrderResponses},
	{"response to an earlier initiation", false, scriptEarlierInitiation},
	{"crossing handshakes", false, scriptCrossing},
	{"responder has a packet to send", false, scriptResponderSends},
	{"confirmed keypair cancels own initiation", false, scriptConfirmation},
	{"passive keepalive and silent peer", false, scriptPassive},
	{"Reject-After-Time", false, scriptRejectAfterTime},
}

func scriptInitiations(p *scriptRun) {
	_, old := p.initiation(7)
	time.Sleep(30 * time.Millisecond)
	_, b := p.initiation(8)
	p.deliver(b, "peer")
	p.step("valid initiation")
	p.deliver(b, "peer")
	p.step("replay")
	time.Sleep(50 * time.Millisecond)
	p.deliver(b, "elsewhere")
	p.step("replay later, from elsewhere")
	p.note("endpoint %s", p.subject.endpoint())
	p.deliver(old, "peer")
	p.step("an initiation with an older timestamp")
	time.Sleep(60 * time.Millisecond)
	_, b = p.initiation(11)
	time.Sleep(18 * time.Millisecond)
	_, c := p.initiation(12)
	p.deliver(b, "peer")
	synctest.Wait() // the reference may handle simultaneous messages in parallel and answer both
	p.deliver(c, "peer")
	p.step("two initiations within minInitiationInterval")
	time.Sleep(60 * time.Millisecond)
	_, b = p.initiation(13)
	p.deliver(b[:initiationLen-1], "peer")
	p.step("short")
	p.deliver(append(slices.Clone(b), 0), "peer")
	p.step("long")
	for i := 1; i < 4; i++ {
		c := slices.Clone(b)
		c[i] = 1
		p.deliver(withMAC1(c, p.me.peer.key), "peer")
		p.step(fmt.Sprint("reserved byte ", i))
	}
	p.deliver(b, "third")
	p.step("valid, from a third place")
}

func scriptChangedInitiations(p *scriptRun) {
	_, b := p.initiation(20)
	for _, m := range tamperedCopies(b, p.me.peer.key) {
		p.deliver(m, "peer")
		time.Sleep(8 * time.Millisecond)
	}
	p.step("each byte changed")
	p.deliver(b, "peer")
	p.step("genuine message")
}

func scriptLowOrderInitiations(p *scriptRun) {
	for _, point := range lowOrder {
		_, b := p.initiation(21)
		copy(b[initiationEphemeral:], point[:])
		p.deliver(withMAC1(b, p.me.peer.key), "peer")
		p.step(fmt.Sprintf("point %x", point[:4]))
	}
	p.handshake(22)
}

func scriptUnknownPeer(p *scriptRun) {
	k := key.NewNodePrivate()
	s := &side{k: k, id: newIdentity(k), peer: p.me.peer}
	s.peer.staticSecretOf = nil
	_, b := s.initiate(p.t, 30)
	p.deliver(withMAC1(b, p.me.peer.key), "peer")
	p.step("initiation")
}

func scriptCounters(p *scriptRun) {
	k := p.handshake(40)
	p.subject.send(packet(p.their, p.addr, "before the keypair is confirmed"))
	p.step("subject sends before the keypair is confirmed")
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

func scriptContents(p *scriptRun) {
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
		{"IPv6 without an allowed IP", v6},
		{"IPv6 with a mapped source", mapped},
		{"loopback source", packet(netip.MustParseAddr("127.0.0.1"), p.their, "x")},
		{"2,000 bytes", p.packet(strings.Repeat("y", 2000))},
		{"60,000 bytes", p.packet(strings.Repeat("y", 60_000))},
	} {
		p.deliver(p.unpadded(k, uint64(n), c.plain), "peer")
		p.step(c.what)
	}
}

func scriptEndpoint(p *scriptRun) {
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

func scriptTwoHandshakes(p *scriptRun) {
	k1 := p.handshake(60)
	time.Sleep(30 * time.Millisecond)
	k2 := p.handshake(61)
	p.deliver(p.data(k1, 0, p.packet("1")), "peer")
	p.step("data under the first keypair")
	p.deliver(p.data(k2, 0, p.packet("2")), "peer")
	p.step("data under the second keypair")
	p.deliver(p.data(k1, 1, p.packet("1")), "peer")
	p.step("data under the first keypair again")
}

func scriptThreeKeypairs(p *scriptRun) {
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

func scriptUnsolicited(p *scriptRun) {
	response := make([]byte, responseLen)
	response[0] = typeResponse
	p.deliver(withMAC1(response, p.me.peer.key), "peer")
	p.step("a response without an initiation")
	cookie := make([]byte, cookieReplyLen)
	cookie[0] = typeCookieReply
	p.deliver(cookie, "peer")
	p.step("a cookie reply without a message")
	for kind := range 256 {
		if kind != typeInitiation && kind != typeResponse {
			b := make([]byte, 200)
			b[0] = byte(kind)
			p.deliver(b, "peer")
		}
	}
	p.step("all other types")
}

func scriptChangedResponses(p *scriptRun) {
	k, response := p.response(p.initiate(), 80)
	for _, m := range tamperedCopies(response, p.me.peer.key) {
		p.deliver(m, "peer")
		time.Sleep(8 * time.Millisecond)
	}
	p.step("each byte changed")
	p.deliver(response, "peer")
	if data := first(p.step("genuine message"), typeTransport); data != nil {
		var n nonce
		plain, ok := k.open(data, &n)
		p.note("opens: %v, %d bytes", ok, len(plain))
	}
	p.deliver(response, "peer")
	p.step("replay")
}

func scriptLowOrderResponses(p *scriptRun) {
	_, response := p.response(p.initiate(), 81)
	for _, point := range lowOrder {
		forged := slices.Clone(response)
		copy(forged[responseEphemeral:], point[:])
		p.deliver(withMAC1(forged, p.me.peer.key), "attacker")
		p.step(fmt.Sprintf("point %x", point[:4]))
	}
	p.deliver(response, "peer")
	p.step("genuine message")
	time.Sleep(time.Second)
	p.step("a second later")
}

func scriptEarlierInitiation(p *scriptRun) {
	b := p.initiate()
	time.Sleep(5600*time.Millisecond - pause)
	second := first(p.step("second initiation"), typeInitiation)
	_, response := p.response(b, 82)
	p.deliver(response, "peer")
	p.step("response to the first")
	_, response = p.response(second, 83)
	p.deliver(response, "elsewhere")
	p.step("response to the second, from elsewhere")
}

// The script's own initiation crosses the subject's, and the script uses the keypair of its own.
func scriptCrossing(p *scriptRun) {
	p.initiate()
	k := p.handshake(85)
	p.confirm(k)
	time.Sleep(20 * time.Second)
	p.step("20 s later")
}

// confirm delivers the first message under a keypair while the subject has a staged packet. The
// message releases that packet. Whether the subject records the packet as sent before or after the
// message as received is a race in both implementations, and decides whether a keepalive becomes
// due. Another packet of the subject clears that timer either way.
func (p *scriptRun) confirm(k *keypair) {
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	p.subject.send(packet(p.their, p.addr, "y"))
	p.step("subject sends")
}

func scriptResponderSends(p *scriptRun) {
	k := p.handshake(86)
	p.subject.send(packet(p.their, p.addr, "waits"))
	time.Sleep(3 * time.Second)
	p.step("subject sends before the keypair is confirmed")
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(8 * time.Second)
	p.step("8 s later")
}

func scriptConfirmation(p *scriptRun) {
	p.initiate()
	time.Sleep(4 * time.Second)
	k := p.handshake(87)
	time.Sleep(2 * time.Second)
	p.step("when the next attempt would be due")
	p.confirm(k)
	time.Sleep(12 * time.Second)
	p.step("12 s later")
}

func scriptPassive(p *scriptRun) {
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

func scriptRejectAfterTime(p *scriptRun) {
	k := p.handshake(95)
	p.deliver(p.data(k, 0, p.packet("x")), "peer")
	p.step("data")
	time.Sleep(181 * time.Second)
	p.step("three minutes later")
	p.deliver(p.data(k, 1, p.packet("old")), "peer")
	p.step("data under the old keypair")
	p.subject.send(packet(p.their, p.addr, "y"))
	p.step("subject sends")
}
