package userstack

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
)

// A rejection has the format of stock nodes: '!', the protocol, the reason, and the ports of the
// dropped packet.
func TestSendRejection(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"100.64.0.2:1000", "100.64.0.1:80", "4500001b000000004063b1fd6440000164400002" + "21064103e80050"},
		{"[fd7a:115c:a1e0::2]:1000", "[fd7a:115c:a1e0::1]:80", "6000000000076340" + "fd7a115ca1e000000000000000000001" +
			"fd7a115ca1e000000000000000000002" + "21064103e80050"},
	} {
		f := Flow{Protocol: TCP, Src: netip.MustParseAddrPort(c.from), Dst: netip.MustParseAddrPort(c.to)}
		s := newStack(t, Config{AnswerTSMP: true}, f.Dst.Addr())
		s.SendRejection(f)
		bufs, sizes := [][]byte{make([]byte, 2000)}, []int{0}
		if n := s.dev.queues[0].Read(bufs, sizes, 0); n != 1 {
			t.Fatalf("%d packets, want 1", n)
		}
		if got := bufs[0][:sizes[0]]; !bytes.Equal(got, unhex(t, c.want)) {
			t.Errorf("%s: sent %x\nwant %s", c.from, got, c.want)
		}
		silent := newStack(t, Config{}, f.Dst.Addr())
		if silent.SendRejection(f); silent.dev.queues[0].queuedBytes != 0 {
			t.Error("a stack without AnswerTSMP sent a rejection")
		}
	}
}

// A rejection is reported if it is certain, complete, about TCP, for a known reason and sent to an
// own address.
func TestReceiveRejection(t *testing.T) {
	for _, c := range []struct {
		to   string
		body string
		want []netip.AddrPort
	}{
		{"100.64.0.2", "21064103e80050", []netip.AddrPort{netip.MustParseAddrPort("100.64.0.1:80")}},
		{"100.64.0.2", "21065303e80050", []netip.AddrPort{netip.MustParseAddrPort("100.64.0.1:80")}},
		{"100.64.0.2", "21065703e8005000", []netip.AddrPort{netip.MustParseAddrPort("100.64.0.1:80")}},
		{"100.64.0.2", "21064103e8005001", nil}, // uncertain
		{"100.64.0.2", "21114103e80050", nil},   // UDP
		{"100.64.0.2", "21063f03e80050", nil},   // unknown reason
		{"100.64.0.2", "21064103e800", nil},
		{"100.64.0.2", "21", nil},
		{"100.64.0.2", "", nil},
		{"100.64.0.3", "21064103e80050", nil},
	} {
		var got []netip.AddrPort
		s := newStack(t, Config{AnswerTSMP: true, Rejected: func(to netip.AddrPort) { got = append(got, to) }}, addrB4)
		s.dev.Write([][]byte{tsmpRequest("100.64.0.1", c.to, unhex(t, c.body))}, 0)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s to %s: reported %v, want %v", c.body, c.to, got, c.want)
		}
	}
}
