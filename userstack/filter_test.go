package userstack

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParsePacket(t *testing.T) {
	syn := data(1, 0)
	syn.flags = header.TCPFlagSyn
	syn6 := syn
	syn6.v6 = true
	for _, c := range []struct {
		name       string
		packet     []byte
		ok, begins bool
		flow       string
	}{
		{"TCP data", data(1, 10).bytes(), true, false, ""},
		{"TCP SYN", syn.bytes(), true, true, "6 100.64.0.2:1000 100.64.0.1:80"},
		{"TCP SYN, IPv6", syn6.bytes(), true, true, "6 [fd7a:115c:a1e0::2]:1000 [fd7a:115c:a1e0::1]:80"},
		{
			"UDP",
			unhex(t, "4500001c000000004011000064400002644000010035003500080000"),
			true, true, "17 100.64.0.2:53 100.64.0.1:53",
		},
		{"UDP, second fragment", unhex(t, "4500001c000000044011000064400002644000010035003500080000"), true, false, ""},
		{
			"UDP after IPv6 options",
			unhex(t, "60000000001000400000000000000000000000000000000100000000000000000000000000000002"+
				"1100010400000000"+
				"0035003600080000"),
			true, true, "17 [::1]:53 [::2]:54",
		},
		{
			"IPv6, second fragment",
			unhex(t, "60000000000c2c400000000000000000000000000000000100000000000000000000000000000002"+
				"1100000900000000"+
				"00350035"),
			true, false, "",
		},
		{
			"truncated IPv6 options",
			unhex(t, "60000000000800400000000000000000000000000000000100000000000000000000000000000002"+
				"11ff010400000000"),
			false, false, "",
		},
		{
			"echo request",
			unhex(t, "4500001c0000000040010000644000026440000108000000"+
				"00000000"),
			true, true, "1 100.64.0.2:0 100.64.0.1:0",
		},
		{"echo reply", unhex(t, "4500001c0000000040010000644000026440000100000000"+"00000000"), true, false, ""},
		{"unreachable", unhex(t, "4500001c0000000040010000644000026440000103000000"+"00000000"), true, false, ""},
		{
			"redirect",
			unhex(t, "4500001c0000000040010000644000026440000105000000"+
				"00000000"),
			true, true, "1 100.64.0.2:0 100.64.0.1:0",
		},
		{
			"router advertisement",
			unhex(t, "6000000000083aff0000000000000000000000000000000100000000000000000000000000000002"+
				"8600000000000000"),
			true, true, "58 [::1]:0 [::2]:0",
		},
		{
			"disco key announcement",
			unhex(t,
				"45000035000000004063b1e364400001644000026107a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c"),
			false, false, "",
		},
		{"empty", nil, false, false, ""},
		{"version 5", unhex(t, "5500001c000000004011000064400002644000010035003500080000"), false, false, ""},
		{
			"length beyond the packet",
			unhex(t, "4500001d000000004011000064400002644000010035003500080000"),
			false, false, "",
		},
		{
			"header length beyond the packet",
			unhex(t, "4f00001c000000004011000064400002644000010035003500080000"),
			false, false, "",
		},
	} {
		p, ok := parsePacket(c.packet)
		if ok != c.ok || ok && p.initiates != c.begins {
			t.Errorf("%s: ok %v, begins %v, want %v, %v", c.name, ok, p.initiates, c.ok, c.begins)
			continue
		}
		if ok && p.initiates {
			f := p.flow(c.packet)
			if got := f.text(); got != c.flow {
				t.Errorf("%s: flow %s, want %s", c.name, got, c.flow)
			}
		}
	}
}

func (f Flow) text() string {
	return fmt.Sprint(f.Protocol, f.Src, f.Dst)
}

// The announcement of a disco key inside the tunnel (disco specification, section 1.6) is dropped
// silently, like every protocol that the stack does not support.
func TestDiscoKeyAnnouncementIsDropped(t *testing.T) {
	p := newPair(t, 0)
	announcement := unhex(t, "45000035000000004063b1e36440000164400002"+
		"6107a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c")
	sent := false
	p.mu.Lock()
	p.drop = func([]byte) bool { sent = true; return false }
	p.mu.Unlock()
	p.b.Device().Write([][]byte{announcement}, 0)
	if p.b.dev.filtered.Load() != 1 {
		t.Errorf("%d packets counted as filtered, want 1", p.b.dev.filtered.Load())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent {
		t.Error("it was answered")
	}
}

func TestPortSet(t *testing.T) {
	var s portSet
	for _, port := range []uint16{0, 1, 31, 32, 65535} {
		s.add(port)
		if !s.has(port) || s.has(port^1) {
			t.Errorf("port %d: has %v, next port %v", port, s.has(port), s.has(port^1))
		}
		s.add(port) // a socket of the other family
		s.remove(port)
		if !s.has(port) {
			t.Errorf("port %d is removed while a socket still holds it", port)
		}
		s.remove(port)
		if s.has(port) {
			t.Errorf("port %d is not removed", port)
		}
	}
}

// Inbound packets that are cut at any length are dropped or passed on, without a panic.
func TestTruncatedPackets(t *testing.T) {
	p := newPair(t, 0)
	syn := data(1, 20)
	syn.flags = header.TCPFlagSyn
	for _, s := range []segment{data(1, 20), syn} {
		for _, v6 := range []bool{false, true} {
			s.v6 = v6
			whole := s.bytes()
			for n := range whole {
				p.b.Device().Write([][]byte{whole[:n]}, 0)
			}
		}
	}
}

func FuzzInbound(f *testing.F) {
	syn := data(1, 0)
	syn.flags = header.TCPFlagSyn
	for _, s := range []segment{syn, data(1, 30)} {
		f.Add(s.bytes())
		s.v6 = true
		f.Add(s.bytes())
	}
	f.Add(unhex(f, "4500001c000000004011000064400002644000010035003500080000"))
	f.Add(unhex(f, "60000000001000400000000000000000000000000000000100000000000000000000000000000002"+
		"1100010400000000"+
		"0035003600080000"))
	stack := newStack(f, Config{}, addrA4, addrA6)
	stack.SetFilter(func(Flow) bool { return true })
	ln, err := stack.Listen(netip.MustParseAddrPort("0.0.0.0:80"))
	if err != nil {
		f.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	wg.Go(func() { // discard the answers
		out := newQueueReader(stack, 0)
		bufs, sizes := buffers(maxBatch)
		for out.read(bufs, sizes, 0) > 0 {
		}
	})
	defer wg.Wait()
	defer stack.Close()
	f.Fuzz(func(t *testing.T, b []byte) {
		stack.Device().Write([][]byte{b, b}, 0)
	})
}
