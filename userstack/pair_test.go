package userstack

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	addrA4 = netip.MustParseAddr("100.64.0.1")
	addrB4 = netip.MustParseAddr("100.64.0.2")
	addrA6 = netip.MustParseAddr("fd7a:115c:a1e0::1")
	addrB6 = netip.MustParseAddr("fd7a:115c:a1e0::2")
)

// pair is two stacks that are joined back to back.
type pair struct {
	a, b      *Stack
	mtu       int
	unchecked bool // packets are not checked
	buffers   int  // Config.Buffers of each stack
	queues    int  // Config.Queues of each stack

	mu   sync.Mutex
	bad  []string // errors in packets
	drop func(packet []byte) bool
	// late reports packets that are delivered alone, some time after earlier ones.
	late func(packet []byte) bool
}

// newPair joins two stacks. The filter of b accepts everything, that of a nothing.
func newPair(t testing.TB, mtu int) *pair {
	t.Helper()
	p := &pair{mtu: cmp.Or(mtu, DefaultMTU)}
	p.start(t)
	return p
}

// newUncheckedPair is newPair for benchmarks: packets are not checked.
func newUncheckedPair(b testing.TB) *pair {
	b.Helper()
	p := &pair{mtu: DefaultMTU, unchecked: true}
	p.start(b)
	return p
}

func (p *pair) start(t testing.TB) {
	cfg := Config{MTU: p.mtu, Buffers: p.buffers, Queues: p.queues}
	p.a, p.b = newStack(t, cfg, addrA4, addrA6), newStack(t, cfg, addrB4, addrB6)
	p.b.SetFilter(func(Flow) bool { return true })
	var wg sync.WaitGroup
	for q := range p.a.Device().Queues() {
		wg.Go(func() { p.carry(p.a, q, p.b) })
		wg.Go(func() { p.carry(p.b, q, p.a) })
	}
	t.Cleanup(func() {
		p.a.Close()
		p.b.Close()
		wg.Wait()
		for _, s := range p.bad {
			t.Error(s)
		}
	})
}

func newStack(t testing.TB, cfg Config, addrs ...netip.Addr) *Stack {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	if err := s.SetAddrs(prefixes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// queueReader reads the packets of one queue, and waits for them.
type queueReader struct {
	q      *Queue
	readyc chan struct{}
}

func newQueueReader(s *Stack, queue int) *queueReader {
	o := &queueReader{s.Device().Queues()[queue], make(chan struct{}, 1)}
	o.q.Notify(func() {
		select {
		case o.readyc <- struct{}{}:
		default:
		}
	})
	return o
}

// read returns 0 when the stack is closed.
func (o *queueReader) read(bufs [][]byte, sizes []int, offset int) int {
	for {
		if n := o.q.Read(bufs, sizes, offset); n > 0 {
			return n
		}
		select {
		case <-o.readyc:
		case <-o.q.d.closec:
			return 0
		}
	}
}

// carry moves packets from a queue of one stack to the other, as WireGuard does, and checks them.
func (p *pair) carry(from *Stack, queue int, to *Stack) {
	const offset = 16
	out := newQueueReader(from, queue)
	bufs := make([][]byte, maxBatch)
	for i := range bufs {
		bufs[i] = make([]byte, offset+maxMTU)
	}
	sizes := make([]int, maxBatch)
	whole := make([][]byte, 0, maxBatch)
	for {
		n := out.read(bufs, sizes, offset)
		if n == 0 {
			return
		}
		whole = whole[:0]
		for i := range n {
			packet := bufs[i][:offset+sizes[i]]
			if p.late != nil && p.late(packet[offset:]) {
				to.Device().Write(whole, offset)
				whole = whole[:0]
				time.Sleep(5 * time.Millisecond)
			}
			if p.unchecked || p.pass(packet[offset:]) {
				whole = append(whole, packet)
			}
		}
		if len(whole) > 0 {
			to.Device().Write(whole, offset)
		}
	}
}

// pass checks a packet and reports whether it is delivered.
func (p *pair) pass(packet []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if why := invalid(packet, p.mtu); why != "" && len(p.bad) < 5 {
		p.bad = append(p.bad, why)
	}
	return p.drop == nil || !p.drop(packet)
}

// invalid returns what is wrong with packet, or "".
func invalid(packet []byte, mtu int) string {
	if len(packet) > mtu {
		return "packet longer than the MTU"
	}
	var addrs, l4 []byte
	var proto uint8
	if packet[0]>>4 == 4 {
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) || int(ip.TotalLength()) != len(packet) {
			return "bad IPv4 header"
		}
		if !ip.IsChecksumValid() {
			return "bad IPv4 checksum"
		}
		if ip.More() || ip.FragmentOffset() != 0 {
			return ""
		}
		addrs, l4, proto = packet[12:20], packet[ip.HeaderLength():], ip.Protocol()
	} else {
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) || int(ip.PayloadLength()) != len(packet)-header.IPv6MinimumSize {
			return "bad IPv6 header"
		}
		addrs, l4, proto = packet[8:40], ip.Payload(), ip.NextHeader()
	}
	if (proto == TCP || proto == UDP) && checksum.Checksum(l4, pseudo(proto, addrs, len(l4))) != 0xffff {
		return "bad transport checksum"
	}
	return ""
}

// pseudo is the checksum of the pseudo-header. The layouts of both families have the same sum.
func pseudo(proto uint8, addrs []byte, n int) uint16 {
	b := append([]byte{}, addrs...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, uint32(proto))
	return checksum.Checksum(b, 0)
}

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for range 100 {
		if leaked() == "" {
			os.Exit(code)
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Stderr.WriteString("goroutines left after the tests:\n" + leaked())
	os.Exit(1)
}

// leaked returns the stacks of all other goroutines.
func leaked() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		// The first goroutine is this one. The signal loop belongs to the fuzzer.
		if i > 0 && !strings.Contains(g, "os/signal.") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}
