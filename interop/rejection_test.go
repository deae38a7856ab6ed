package interop

import (
	"net/netip"
	"testing"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"

	"ginnel/userstack"
)

// Stock nodes read the message by which our stack rejects a connection that the policy forbids, and
// our stack reads theirs.
func TestRejections(t *testing.T) {
	for _, ends := range [][2]string{
		{"100.64.0.1:1000", "100.64.0.2:443"}, {"[fd7a:115c:a1e0::1]:1000", "[fd7a:115c:a1e0::2]:443"},
	} {
		src, dst := netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
		var heard []netip.AddrPort
		cfg := userstack.Config{AnswerTSMP: true, Rejected: func(to netip.AddrPort) { heard = append(heard, to) }}
		s, err := userstack.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		own := []netip.Prefix{netip.PrefixFrom(src.Addr(), src.Addr().BitLen())}
		if err := s.SetAddrs(own); err != nil {
			t.Fatal(err)
		}
		s.SendRejection(userstack.Flow{Protocol: userstack.TCP, Src: dst, Dst: src}) // opened by the peer
		bufs, sizes := [][]byte{make([]byte, 2000)}, []int{0}
		if n := s.Device().Queues()[0].Read(bufs, sizes, 0); n != 1 {
			t.Fatalf("%d packets, want 1", n)
		}
		var p packet.Parsed
		p.Decode(bufs[0][:sizes[0]])
		h, ok := p.AsTailscaleRejectedHeader()
		if !ok || h.Src != dst || h.Dst != src || h.Reason != packet.RejectedDueToACLs || h.Proto != ipproto.TCP ||
			h.MaybeBroken {
			t.Errorf("stock nodes read %v, %v", h, ok)
		}
		stock := packet.TailscaleRejectedHeader{IPSrc: dst.Addr(), IPDst: src.Addr(), Src: src, Dst: dst, Proto: ipproto.TCP,
			Reason: packet.RejectedDueToACLs}
		s.Device().Write([][]byte{packet.Generate(stock, nil)}, 0)
		if len(heard) != 1 || heard[0] != dst {
			t.Errorf("a stock node's rejection was read as %v, want %v", heard, dst)
		}
	}
}
