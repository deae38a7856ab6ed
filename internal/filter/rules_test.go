package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ginnel/control"
)

// naive is the filter of section 6.2 taken literally: it tries one rule after the other and parses
// all text again for each packet.
type naive struct {
	rules []control.FilterRule
	has   func(netip.Addr, string) bool
}

func (n naive) allow(p packet) bool {
	return slices.ContainsFunc(n.rules, func(r control.FilterRule) bool { return n.matches(r, p) })
}

func (n naive) matches(r control.FilterRule, p packet) bool {
	icmp := p.src.Is4() && p.proto == protoICMPv4 || p.src.Is6() && p.proto == protoICMPv6
	protos := r.IPProto
	if len(protos) == 0 {
		protos = []int{6, 17, 1, 58}
	}
	if !icmp && !slices.Contains(protos, int(p.proto)) || !slices.ContainsFunc(r.SrcIPs, func(s string) bool {
		capability, ok := strings.CutPrefix(s, "cap:")
		return ok && n.has(p.src, capability) || !ok && contains(s, p.src)
	}) {
		return false
	}
	return slices.ContainsFunc(r.DstPorts, func(d control.NetPortRange) bool {
		switch first, last := d.Ports.First, d.Ports.Last; {
		case first > last || !contains(d.IP, p.dst):
			return false
		case icmp:
			return true
		case p.proto == protoTCP || p.proto == protoUDP || p.proto == protoSCTP:
			return first <= p.dstPort && p.dstPort <= last
		default:
			return first == 0 && last == 65535
		}
	})
}

func contains(text string, a netip.Addr) bool {
	if text == "*" {
		return true
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p == p.Masked() && p.Contains(a)
	}
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	first, err1 := netip.ParseAddr(from)
	last, err2 := netip.ParseAddr(to)
	return err1 == nil && err2 == nil && first.BitLen() == last.BitLen() && a.BitLen() == first.BitLen() &&
		first.Compare(a) <= 0 && a.Compare(last) <= 0
}

// world makes random rules and packets from few addresses and ports, so that they often match.
type world struct{ *rand.Rand }

func (w world) addr() netip.Addr {
	edge := []byte{0, 1, 2, 3, 254, 255}
	low := edge[w.IntN(len(edge))]
	if w.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{100, 64, edge[w.IntN(3)], low})
	}
	return netip.AddrFrom16([16]byte{0xfd, 0x7a, 7: edge[w.IntN(3)], 15: low})
}

func (w world) addrs() string {
	a, b := w.addr(), w.addr()
	switch w.IntN(10) {
	case 0:
		return "*"
	case 1:
		return []string{"", "x", "100.64.0.1/24", "100.64.0.1-fd7a::1", "1.2.3.4-", "fe80::1%eth0"}[w.IntN(6)]
	case 2, 3:
		if b.Less(a) && w.IntN(4) > 0 {
			a, b = b, a
		}
		return a.String() + "-" + b.String()
	case 4, 5, 6:
		return netip.PrefixFrom(a, w.IntN(a.BitLen()+1)).Masked().String()
	case 7:
		return netip.PrefixFrom(a, a.BitLen()-w.IntN(3)).Masked().String()
	default:
		return a.String()
	}
}

func (w world) port() uint16 { return []uint16{0, 1, 22, 80, 443, 65534, 65535}[w.IntN(7)] }

func (w world) rule() control.FilterRule {
	var r control.FilterRule
	for range w.IntN(4) {
		r.SrcIPs = append(r.SrcIPs, w.addrs())
	}
	if w.IntN(6) == 0 {
		r.SrcIPs = append(r.SrcIPs, []string{"cap:even", "cap:low", "cap:nobody"}[w.IntN(3)])
	}
	for range w.IntN(4) {
		ports := control.PortRange{First: w.port(), Last: w.port()}
		if ports.First > ports.Last && w.IntN(4) > 0 {
			ports = control.PortRange{Last: 65535}
		}
		r.DstPorts = append(r.DstPorts, control.NetPortRange{IP: w.addrs(), Ports: ports})
	}
	for range w.IntN(3) {
		r.IPProto = append(r.IPProto, []int{1, 6, 17, 47, 58, 132, 300, -1}[w.IntN(8)])
	}
	return r
}

func (w world) packet() packet {
	p := packet{src: w.addr(), dst: w.addr(), srcPort: w.port(), dstPort: w.port()}
	for p.dst.BitLen() != p.src.BitLen() {
		p.dst = w.addr()
	}
	p.proto = []uint8{protoICMPv4, protoTCP, protoUDP, 47, protoICMPv6, protoSCTP}[w.IntN(6)]
	switch {
	case p.proto == protoTCP:
		p.flags = syn
	case p.src.Is4():
		p.flags = 8
	default:
		p.flags = 128
	}
	return p
}

func hasCapability(a netip.Addr, capability string) bool {
	b := a.As16()
	return capability == "even" && b[15]%2 == 0 || capability == "low" && b[15] < 128
}

// agree compares the compiled rules with the naive ones on random packets.
func agree(t *testing.T, w world, rules, packets int) {
	t.Helper()
	n := naive{has: hasCapability}
	for range rules {
		n.rules = append(n.rules, w.rule())
	}
	var f Filter
	set(t, &f, Config{Rules: n.rules, Local: everywhere(), HasCapability: hasCapability})
	for range packets {
		p := w.packet()
		if got, want := f.In(p.bytes()), n.allow(p); got != want {
			t.Fatalf("got %v, want %v for %+v under\n%+v", got, want, p, n.rules)
		}
	}
}

func TestAgainstNaive(t *testing.T) {
	w := world{rand.New(rand.NewPCG(3, 4))}
	for _, rules := range []int{0, 1, 2, 5, 20} {
		for range 30 {
			agree(t, w, rules, 60)
		}
	}
	agree(t, w, 200, 100)
}

func FuzzAgainstNaive(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint8(3))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64, rules uint8) {
		agree(t, world{rand.New(rand.NewPCG(seed1, seed2))}, int(rules%32), 200)
	})
}

// "Obsolete; rejects the filter if non-empty": the former rules stay in force.
func TestObsoleteBits(t *testing.T) {
	bits := 8
	port := []control.NetPortRange{{IP: "*", Ports: control.PortRange{First: 22, Last: 22}}}
	ssh := packet{proto: protoTCP, src: peer4, dst: here4, dstPort: 22, flags: syn}.bytes()
	for name, bad := range map[string]control.FilterRule{
		"SrcBits": {SrcIPs: []string{"100.64.0.0"}, SrcBits: []int{10}, DstPorts: port},
		"Bits":    {SrcIPs: []string{"*"}, DstPorts: []control.NetPortRange{{IP: "100.0.0.0", Bits: &bits}}},
	} {
		var f Filter
		set(t, &f, Config{Rules: []control.FilterRule{{SrcIPs: []string{"*"}, DstPorts: port}}, Local: everywhere()})
		if err := f.Set(Config{Rules: []control.FilterRule{{SrcIPs: []string{"1.1.1.1"}}, bad}}); err == nil {
			t.Errorf("%s: accepted", name)
		} else if want := "filter: compiling rule 1: it has prefix lengths apart from addresses"; err.Error() != want {
			t.Errorf("%s: got %q, want %q", name, err, want)
		}
		if !f.In(ssh) {
			t.Errorf("%s: the refused rules took effect", name)
		}
	}
}

// A list of only invalid protocols is not an empty list, which would mean TCP, UDP and ICMP.
func TestUnknownProtocols(t *testing.T) {
	var f Filter
	rules := allowAll()
	rules[0].IPProto = []int{256, -1}
	set(t, &f, Config{Rules: rules, Local: everywhere()})
	if f.In(packet{proto: protoTCP, src: peer4, dst: here4, flags: syn}.bytes()) {
		t.Error("a SYN came in")
	}
}

var sizes = []int{10, 100, 1000, 10000}

// manyRules returns n rules with different sources, destinations and ports.
func manyRules(n int) []control.FilterRule {
	rules := make([]control.FilterRule, n)
	for i := range rules {
		src := fmt.Sprintf("100.%d.%d.%d", 64+i>>14, i>>7&127, i&127*2)
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String()
		ports := control.PortRange{First: uint16(i), Last: uint16(i + 100)}
		rules[i] = control.FilterRule{SrcIPs: []string{src},
			DstPorts: []control.NetPortRange{{IP: dst, Ports: ports}, {IP: "100.64.0.1", Ports: ports}}}
	}
	return rules
}

func BenchmarkIn(b *testing.B) {
	for _, n := range sizes {
		for name, wildcard := range map[string]bool{"sources": false, "wildcards": true} {
			rules := manyRules(n)
			for i := range rules {
				if wildcard {
					rules[i].SrcIPs = []string{"*"}
				}
			}
			var f Filter
			set(b, &f, Config{Rules: rules, Local: everywhere()})
			r := rules[n-1]
			p := packet{proto: protoTCP, src: peer4, dst: here4, dstPort: uint16(n + 50), flags: syn}
			if !wildcard {
				p.src = netip.MustParseAddr(r.SrcIPs[0])
			}
			raw := p.bytes()
			if !f.In(raw) {
				b.Fatal("the packet does not pass")
			}
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f.In(raw)
				}
			})
		}
	}
}

func BenchmarkSet(b *testing.B) {
	for _, n := range sizes {
		rules := manyRules(n)
		one := control.FilterRule{DstPorts: rules[0].DstPorts} // the form that a node with many peers gets
		for _, r := range rules {
			one.SrcIPs = append(one.SrcIPs, r.SrcIPs...)
		}
		for name, rules := range map[string][]control.FilterRule{"rules": rules, "sources": {one}} {
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var f Filter
					set(b, &f, Config{Rules: rules, Local: everywhere()})
				}
			})
		}
	}
}
