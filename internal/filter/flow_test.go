package filter

import (
	"net/netip"
	"sync"
	"testing"
)

func udp(port uint16) packet {
	return packet{proto: protoUDP, src: here4, dst: peer4, srcPort: port, dstPort: 53}
}

// answer returns the packet of the reverse direction.
func (p packet) answer() packet {
	p.src, p.dst, p.srcPort, p.dstPort = p.dst, p.src, p.dstPort, p.srcPort
	return p
}

func local() Config { return Config{Local: []netip.Prefix{netip.PrefixFrom(here4, 32)}} }

// "UDP and SCTP flows are remembered (reverse 5-tuple; 512 entries, LRU, no timeout)."
func TestFlows(t *testing.T) {
	var f Filter
	set(t, &f, local())
	for port := range uint16(512) {
		out(&f, udp(port).bytes())
	}
	for port := range uint16(512) {
		if !f.In(udp(port).answer().bytes()) {
			t.Errorf("the answer to port %d does not come in", port)
		}
	}
	sctp := udp(1)
	sctp.proto = protoSCTP
	if f.In(sctp.answer().bytes()) {
		t.Error("a flow of UDP let SCTP in")
	}
	out(&f, sctp.bytes())
	if !f.In(sctp.answer().bytes()) {
		t.Error("the answer of SCTP does not come in")
	}
	if f.In(udp(600).answer().bytes()) {
		t.Error("came in without having been asked for")
	}
}

// A flow in use stays in the table while thousands of others are inserted; an unused one is
// evicted.
func TestFlowsLRU(t *testing.T) {
	var f Filter
	set(t, &f, local())
	out(&f, udp(1).bytes())
	out(&f, udp(2).bytes())
	for port := range uint16(5000) {
		out(&f, udp(100+port).bytes())
		if !f.In(udp(1).answer().bytes()) {
			t.Fatalf("the flow in use was forgotten after %d others", port)
		}
	}
	if f.In(udp(2).answer().bytes()) {
		t.Error("a flow unused for 5000 others is remembered")
	}
}

// "Changing rules keeps the flow table". Jailed peers have a table of their own.
func TestFlowsOutliveRules(t *testing.T) {
	var f Filter
	asked, in := udp(7).bytes(), udp(7).answer().bytes()
	want := func(step string, want bool) {
		t.Helper()
		if got := f.In(in); got != want {
			t.Errorf("%s: got %v, want %v", step, got, want)
		}
	}
	out(&f, asked)
	want("without a map", false)
	set(t, &f, local())
	out(&f, asked)
	want("asked", true)

	cfg := local()
	cfg.Rules = allowAll()
	set(t, &f, cfg)
	set(t, &f, local())
	want("after two changes of rules", true)

	jail := cfg
	jail.Jailed = []netip.Prefix{netip.PrefixFrom(peer4, 32)}
	set(t, &f, jail)
	want("asked of a peer before it was jailed", false)
	out(&f, asked)
	want("asked of a jailed peer", true)
	if f.In(udp(8).answer().bytes()) {
		t.Error("a jailed peer began something")
	}
	set(t, &f, local())
	want("jailed no more", true)
}

// Sent inserts the same flow as the outbound packet itself would.
func TestSent(t *testing.T) {
	var f Filter
	f.Sent(netip.AddrPortFrom(here4, 7), netip.AddrPortFrom(peer4, 53)) // before the first Set: it has no effect
	set(t, &f, local())
	f.Sent(netip.AddrPortFrom(here4, 7), netip.AddrPortFrom(peer4, 53))
	if !f.In(udp(7).answer().bytes()) {
		t.Error("the answer does not come in")
	}
	if f.In(udp(8).answer().bytes()) {
		t.Error("something else comes in")
	}
}

// Nothing on the packet path allocates: neither for packets that rules allow, nor for answers, nor
// for packets that open a flow.
func TestAllocations(t *testing.T) {
	var f Filter
	cfg := local()
	cfg.Rules = manyRules(1000)
	set(t, &f, cfg)
	allowed := packet{proto: protoTCP, src: netip.MustParseAddr("100.64.0.0"), dst: here4, dstPort: 1, flags: syn}.bytes()
	asked, in := udp(7).bytes(), udp(7).answer().bytes()
	if !f.In(allowed) || !out(&f, asked) || !f.In(in) {
		t.Fatal("a packet does not pass")
	}
	port := byte(0)
	for name, pass := range map[string]func(){
		"in by a rule":   func() { f.In(allowed) },
		"in by a flow":   func() { f.In(in) },
		"out":            func() { out(&f, asked) },
		"out in a flow":  func() { port++; asked[21] = port; out(&f, asked) },
		"in and refused": func() { in[21]++; f.In(in) },
	} {
		if n := testing.AllocsPerRun(100, pass); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// For the race detector: packets of many flows in both directions while rules change. No flow is
// lost as long as all of them fit into the table.
func TestConcurrent(t *testing.T) {
	var f Filter
	set(t, &f, local())
	var wg sync.WaitGroup
	for n := range uint16(4) {
		wg.Go(func() {
			mine := udp(n)
			out(&f, mine.bytes())
			for port := range uint16(500) {
				out(&f, udp(1000*(n+1)+port%50).bytes())
				if !f.In(mine.answer().bytes()) {
					t.Errorf("flow %d was forgotten", n)
					return
				}
			}
		})
	}
	for i := range 50 {
		cfg := local()
		if i%2 == 0 {
			cfg.Rules = manyRules(10)
		}
		set(t, &f, cfg)
	}
	wg.Wait()
}

func BenchmarkFlow(b *testing.B) {
	var f Filter
	set(b, &f, local())
	for port := range uint16(512) {
		out(&f, udp(port).bytes())
	}
	asked, in := udp(7).bytes(), udp(7).answer().bytes()
	b.Run("out", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			out(&f, asked)
		}
	})
	b.Run("in", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.In(in)
		}
	})
	b.Run("out-new", func(b *testing.B) {
		b.ReportAllocs()
		for n := uint16(0); b.Loop(); n++ {
			asked[20], asked[21] = byte(n>>8), byte(n)
			out(&f, asked)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				f.In(in)
			}
		})
	})
}
