package userstack

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// tsmpRequest builds a ping between two addresses of the test.
func tsmpRequest(src, dst string, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		b := make([]byte, header.IPv4MinimumSize)
		header.IPv4(b).Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(payload)),
			TTL: 64, Protocol: tsmpProtocol, SrcAddr: addressOf(s), DstAddr: addressOf(d)})
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, header.IPv6MinimumSize)
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)),
		TransportProtocol: tsmpProtocol, HopLimit: 64, SrcAddr: addressOf(s), DstAddr: addressOf(d)})
	return append(b, payload...)
}

// TSMP pings are answered with their data although the filter accepts nothing, but only with
// AnswerTSMP.
func TestTSMP(t *testing.T) {
	for _, addrs := range [][2]string{{"100.64.0.1", "100.64.0.2"}, {"fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2"}} {
		for _, answers := range []bool{true, false} {
			s, err := New(Config{AnswerTSMP: answers})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.SetAddrs([]netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addrs[1]), 32)}); err != nil {
				t.Fatal(err)
			}
			ping := append([]byte{tsmpPing}, "12345678"...)
			request := tsmpRequest(addrs[0], addrs[1], ping)
			for cut := range len(request) {
				s.dev.Write([][]byte{request[:cut]}, 0) // no answer, and no panic
			}
			s.dev.Write([][]byte{request}, 0)
			if !answers {
				if s.dev.queues[0].queuedBytes != 0 {
					t.Error("an answer of a stack that is to give none")
				}
				continue
			}
			bufs, sizes := [][]byte{make([]byte, 2000)}, []int{0}
			if n := s.dev.queues[0].Read(bufs, sizes, 0); n != 1 {
				t.Fatalf("%d packets, want 1", n)
			}
			want := tsmpRequest(addrs[1], addrs[0], append(append([]byte{tsmpPong}, "12345678"...), 0, 0))
			if got := bufs[0][:sizes[0]]; !bytes.Equal(got, want) {
				t.Errorf("answer %x\nwant   %x", got, want)
			}
		}
	}
}
