package userstack

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A SYN-ACK that acknowledges another SYN is answered by a RST with a valid checksum.
func TestResetDuringHandshake(t *testing.T) {
	s := newStack(t, Config{}, addrA4)
	out := newQueueReader(s, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.DialContext(ctx, "tcp", netip.AddrPortFrom(addrB4, 7).String()) })
	defer wg.Wait()
	defer cancel()
	bufs, sizes := buffers(1)
	if out.read(bufs, sizes, 0) != 1 {
		t.Fatal("no SYN was sent")
	}
	syn := header.TCP(bufs[0][header.IPv4MinimumSize:sizes[0]])
	packet := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	header.IPv4(packet).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(packet)), TTL: 64, Protocol: TCP,
		SrcAddr: addressOf(addrB4), DstAddr: addressOf(addrA4),
	})
	header.IPv4(packet).SetChecksum(^header.IPv4(packet).CalculateChecksum())
	header.TCP(packet[header.IPv4MinimumSize:]).Encode(&header.TCPFields{
		SrcPort: 7, DstPort: syn.SourcePort(), SeqNum: 1, AckNum: syn.SequenceNumber() + 100,
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn | header.TCPFlagAck, WindowSize: 1000,
	})
	s.Device().Write([][]byte{packet}, 0)
	if out.read(bufs, sizes, 0) != 1 {
		t.Fatal("no RST was sent")
	}
	answer := bufs[0][:sizes[0]]
	if flags := header.TCP(answer[header.IPv4MinimumSize:]).Flags(); flags != header.TCPFlagRst {
		t.Errorf("the answer has the flags %v, want a reset", flags)
	}
	if why := invalid(answer, DefaultMTU); why != "" {
		t.Error(why)
	}
}
