package filter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"ginnel/control"
)

// packet describes a packet. Its checksums are zero, because the filter leaves them to the
// netstack.
type packet struct {
	proto            uint8
	src, dst         netip.Addr
	srcPort, dstPort uint16
	flags            byte // TCP flags or ICMP type
}

const syn = 2

func (p packet) bytes() []byte {
	body := make([]byte, 8, 20)
	binary.BigEndian.PutUint16(body, p.srcPort)
	binary.BigEndian.PutUint16(body[2:], p.dstPort)
	switch p.proto {
	case protoTCP:
		body = body[:20]
		body[12], body[13] = 0x50, p.flags
	case protoICMPv4, protoICMPv6:
		clear(body)
		body[0] = p.flags
	}
	return p.header(p.proto, body)
}

func (p packet) header(proto uint8, body []byte) []byte {
	if p.src.Is4() {
		b := make([]byte, 20, 20+len(body))
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
		copy(b[12:], p.src.AsSlice())
		copy(b[16:], p.dst.AsSlice())
		return append(b, body...)
	}
	b := make([]byte, 40, 40+len(body))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], p.src.AsSlice())
	copy(b[24:], p.dst.AsSlice())
	return append(b, body...)
}

func allowAll() []control.FilterRule {
	return []control.FilterRule{{SrcIPs: []string{"*"},
		DstPorts: []control.NetPortRange{{IP: "*", Ports: control.PortRange{Last: 65535}}}}}
}

func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

var (
	here4, peer4 = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	here6, peer6 = netip.MustParseAddr("fd7a:115c:a1e0::1"), netip.MustParseAddr("fd7a:115c:a1e0::2")
)

// Even a filter that allows everything refuses multicast and link-local destinations, except for
// the metadata service of clouds.
func TestDestinations(t *testing.T) {
	var f Filter
	set(t, &f, Config{Rules: allowAll(), Local: everywhere()})
	for dst, want := range map[string]bool{
		"100.64.0.1": true, "224.0.0.1": false, "239.255.255.255": false, "169.254.1.1": false, "169.254.169.254": true,
		"169.253.0.1": true, "fd7a:115c:a1e0::1": true, "ff02::1": false, "ff0e::1": false, "fe80::1": false,
		"febf::1": false,
		"fec0::1": true,
	} {
		p := packet{proto: protoUDP, src: peer4, dst: netip.MustParseAddr(dst), dstPort: 53}
		if p.dst.Is6() {
			p.src = peer6
		}
		if got := f.In(p.bytes()); got != want {
			t.Errorf("in to %s: got %v, want %v", dst, got, want)
		}
		if got := out(&f, p.bytes()); got != want {
			t.Errorf("out to %s: got %v, want %v", dst, got, want)
		}
	}
	if !f.In(nil) {
		t.Error("a keepalive does not pass")
	}
}

// "< 20 bytes, unparsable: drop". Every packet of the vectors, cut at every length, is refused even
// if everything is allowed.
func TestTruncation(t *testing.T) {
	var f Filter
	set(t, &f, Config{Rules: allowAll(), Local: everywhere()})
	for _, v := range loadVectors(t).Packets {
		b := unhex(t, v.PacketHex)
		for n := 1; n < len(b); n++ {
			if f.In(b[:n]) || out(&f, b[:n]) {
				t.Errorf("%s: passes cut to %d bytes", v.Note, n)
			}
		}
	}
}

// A packet whose header contradicts its length or content is refused.
func TestMalformed(t *testing.T) {
	var f Filter
	set(t, &f, Config{Rules: allowAll(), Local: everywhere()})
	udp4 := packet{proto: protoUDP, src: peer4, dst: here4, dstPort: 53}
	udp6 := packet{proto: protoUDP, src: peer6, dst: here6, dstPort: 53}
	change := func(p packet, i int, to byte) []byte { b := p.bytes(); b[i] = to; return b }
	for name, b := range map[string][]byte{
		"version 5":                  change(udp4, 0, 0x55),
		"header of 16 bytes":         change(udp4, 0, 0x44),
		"header longer than all":     change(udp4, 0, 0x4f),
		"total shorter than header":  change(udp4, 3, 10),
		"total longer than packet":   change(udp4, 3, 200),
		"protocol 0":                 change(udp4, 9, 0),
		"payload longer than packet": change(udp6, 5, 200),
		"TCP in 8 bytes":             udp4.header(protoTCP, make([]byte, 8)),
		"UDP in 4 bytes":             udp6.header(protoUDP, make([]byte, 4)),
		"ICMP in 4 bytes":            udp4.header(protoICMPv4, make([]byte, 4)),
		"extension cut off":          udp6.header(0, []byte{protoUDP, 3, 0, 0, 0, 0, 0, 0}),
		"fragment header cut off":    udp6.header(44, []byte{protoUDP, 0, 0}),
		"later fragment, IPv4":       change(udp4, 7, 185),
		"later fragment, IPv6":       udp6.header(44, append([]byte{protoUDP, 0, 5, 200, 0, 0, 0, 1}, make([]byte, 64)...)),
	} {
		if f.In(b) {
			t.Errorf("%s: came in", name)
		}
	}
	if !f.In(append(udp4.bytes(), 1, 2, 3)) || !f.In(append(udp6.bytes(), 1, 2, 3)) {
		t.Error("padding behind a packet kept it out")
	}
}

// A SYN behind extension headers is found.
func TestExtensions(t *testing.T) {
	var f Filter
	set(t, &f, Config{Local: everywhere()})
	tcp := func(flags byte) []byte {
		p := packet{proto: protoTCP, src: peer6, dst: here6, flags: flags}
		behind := append([]byte{protoTCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, p.bytes()[40:]...)
		return p.header(0, append([]byte{60, 0, 0, 0, 0, 0, 0, 0}, behind...))
	}
	if f.In(tcp(syn)) {
		t.Error("a SYN came in without a rule")
	}
	if !f.In(tcp(16)) {
		t.Error("an ACK did not come in")
	}
	set(t, &f, Config{Local: everywhere(), Rules: allowAll()})
	if !f.In(tcp(syn)) {
		t.Error("a SYN did not come in with a rule")
	}
}

// No packet makes the filter panic, and without rules and flows no packet that could open a flow is
// accepted.
func FuzzPacket(f *testing.F) {
	v := loadVectors(f)
	for _, p := range v.Packets {
		f.Add(unhex(f, p.PacketHex))
	}
	var open, closed Filter
	set(f, &open, v.config())
	set(f, &closed, Config{Local: everywhere()})
	f.Fuzz(func(t *testing.T, b []byte) {
		in, leaves := open.In(b), len(b) == 0 || out(&open, b)
		if in && !leaves {
			t.Error("what may come in may not go out")
		}
		var h headers
		if closed.In(b) && len(b) > 0 && h.parse(b) && !h.answer && h.proto != protoTSMP {
			t.Error("came in without a rule")
		}
	})
}

func TestRandomPackets(t *testing.T) {
	var f Filter
	v := loadVectors(t)
	set(t, &f, v.config())
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		b := unhex(t, v.Packets[rng.IntN(len(v.Packets))].PacketHex)
		for range 1 + rng.IntN(8) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		f.In(b)
		out(&f, b)
	}
}
