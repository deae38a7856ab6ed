package userstack

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// udpPacket is a packet with n bytes after an IPv4 header of which only the version is set.
func udpPacket(n int) *stack.PacketBuffer {
	payload := buffer.MakeWithData(make([]byte, n))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 20, Payload: payload})
	pkt.NetworkHeader().Push(header.IPv4MinimumSize)[0] = 0x45
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	return pkt
}

// buffers returns the arguments of Read for n packets.
func buffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	return bufs, make([]int, n)
}

// The function given to Notify is called for each queued packet, and at once if packets wait
// already.
func TestNotify(t *testing.T) {
	d := newDevice(DefaultMTU, 0, 1, tcpip.NewStdClock())
	q := d.queues[0]
	defer d.Close()
	pkt := udpPacket(10)
	defer pkt.DecRef()
	q.enqueue(pkt)
	calls := 0
	q.Notify(func() { calls++ })
	if calls != 1 {
		t.Errorf("%d calls for a waiting packet, want 1", calls)
	}
	q.enqueue(pkt)
	if calls != 2 || q.Waiting() == 0 {
		t.Errorf("%d calls and %d bytes waiting, want 2 calls and some bytes", calls, q.Waiting())
	}
	bufs, sizes := buffers(maxBatch)
	if n := q.Read(bufs, sizes, 16); n != 2 || sizes[0] != 30 || q.Waiting() != 0 {
		t.Errorf("%d packets of %d bytes and %d bytes waiting, want 2 of 30 and none", n, sizes[0], q.Waiting())
	}
	if n := q.Read(bufs, sizes, 16); n != 0 {
		t.Errorf("%d packets from an empty queue", n)
	}
}

// told is an Activity that lists what it hears.
type told []traffic

func (a *told) Dialogue() { *a = append(*a, dialogue) }
func (a *told) Bulk()     { *a = append(*a, bulk) }

// An Activity hears of packets in both directions, and whether they may belong to a dialogue.
func TestActivity(t *testing.T) {
	var heard told
	s := newStack(t, Config{Activity: &heard}, addrA4)
	flags := func(f header.TCPFlags) func(header.IPv4, header.TCP) {
		return func(_ header.IPv4, tcp header.TCP) { tcp.SetFlags(uint8(f)) }
	}
	for _, c := range []struct {
		what string
		pkt  *stack.PacketBuffer
		want traffic
	}{
		{"a datagram", udpPacket(10), dialogue},
		{"a large datagram", udpPacket(1000), bulk},
		{"a question", tcpData(1, 64), dialogue},
		{"bulk", tcpData(1, 1000), bulk},
		{"an acknowledgement", tcpData(1, 0, flags(header.TCPFlagAck)), bulk},
		{"the end", tcpData(1, 0, flags(header.TCPFlagAck|header.TCPFlagFin)), dialogue},
		{"the beginning", tcpData(1, 0, flags(header.TCPFlagSyn)), dialogue},
	} {
		heard = nil
		packet := c.pkt.ToView().ToSlice()
		for _, b := range [][][]byte{{packet}, {packet, packet}} {
			if _, err := s.dev.Write(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		s.dev.queues[0].acks.full = 0 // none is held
		s.dev.enqueue(c.pkt)
		c.pkt.DecRef()
		if want := (told{c.want, bulk, c.want}); !slices.Equal(heard, want) {
			t.Errorf("%s: heard %v, want %v", c.what, heard, want)
		}
	}
}

// A full queue blocks UDP and TCP writers until there is room or the device is closed. It drops
// other packets.
func TestFullQueue(t *testing.T) {
	d := newDevice(DefaultMTU, 0, 1, tcpip.NewStdClock())
	q := d.queues[0]
	pkt := udpPacket(1000)
	defer pkt.DecRef()
	for q.queuedBytes < maxQueued {
		if err := q.enqueue(pkt); err != nil {
			t.Fatal(err)
		}
	}
	icmp := udpPacket(10)
	defer icmp.DecRef()
	icmp.TransportProtocolNumber = header.ICMPv4ProtocolNumber
	if err := q.enqueue(icmp); err == nil || d.queueFull.Load() != 1 {
		t.Errorf("ICMP on a full queue: %v, %d drops, want an error and 1", err, d.queueFull.Load())
	}

	var wg sync.WaitGroup
	results := make(chan tcpip.Error, 2)
	for range 2 {
		wg.Go(func() {
			err := q.enqueue(pkt)
			results <- err
		})
	}
	select {
	case err := <-results:
		t.Fatalf("UDP on a full queue did not block: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	bufs, sizes := buffers(1)
	if n := q.Read(bufs, sizes, 0); n != 1 {
		t.Fatalf("%d packets, want 1", n)
	}
	if err := <-results; err != nil {
		t.Errorf("after a packet was read: %v", err)
	}
	d.Close()
	if err := <-results; err == nil {
		t.Error("a writer succeeded after Close")
	}
	wg.Wait()
	if n := q.Read(bufs, sizes, 0); n != 0 {
		t.Errorf("%d packets after Close", n)
	}
}

func TestConfig(t *testing.T) {
	for _, mtu := range []int{-1, 575, 65501} {
		if s, err := New(Config{MTU: mtu}); err == nil {
			s.Close()
			t.Errorf("MTU %d was accepted", mtu)
		}
	}
	s := newStack(t, Config{}, netip.MustParseAddr("100.64.0.1"))
	if mtu := s.Device().MTU(); mtu != DefaultMTU {
		t.Errorf("MTU %d, want %d", mtu, DefaultMTU)
	}
}

func TestPacketQueue(t *testing.T) {
	var q ring[*stack.PacketBuffer]
	var want []*stack.PacketBuffer
	for i := range 1000 {
		for range i % 7 {
			pkt := &stack.PacketBuffer{}
			q.push(pkt)
			want = append(want, pkt)
		}
		for range i % 5 {
			got := q.pop()
			if len(want) == 0 {
				if got != nil {
					t.Fatal("pop of an empty queue returned a packet")
				}
				continue
			}
			if got != want[0] {
				t.Fatal("packets are not in order")
			}
			want = want[1:]
		}
	}
}

// tcpData is a segment of gVisor. Its payload is a function of the sequence number.
func tcpData(seq uint32, n int, change ...func(ip header.IPv4, tcp header.TCP)) *stack.PacketBuffer {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte((seq + uint32(i)) % 251)
	}
	view := buffer.MakeWithData(payload)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 60, Payload: view})
	tcp := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
	tcp.Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, SeqNum: seq, AckNum: 7, DataOffset: header.TCPMinimumSize,
		Flags: header.TCPFlagAck | header.TCPFlagPsh, WindowSize: 100})
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	ip := header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize))
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(40 + n), Protocol: uint8(header.TCPProtocolNumber), TTL: 64,
		SrcAddr: addressOf(addrA4), DstAddr: addressOf(addrB4)})
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: 1000}
	for _, f := range change {
		f(ip, tcp)
	}
	return pkt
}

// Consecutive segments of any size are cut into packets of equal size, as far as one continues the
// other.
func TestSegmentsAreJoined(t *testing.T) {
	fin := func(_ header.IPv4, tcp header.TCP) { tcp.SetFlags(uint8(header.TCPFlagAck | header.TCPFlagFin)) }
	port := func(_ header.IPv4, tcp header.TCP) { tcp.SetSourcePort(9) }
	addr := func(ip header.IPv4, _ header.TCP) { ip.SetDestinationAddress(addressOf(addrA4)) }
	tos := func(ip header.IPv4, _ header.TCP) { ip.SetTOS(4, 0) }
	otherMSS := tcpData(300, 300)
	otherMSS.GSOOptions.MSS = 900
	type segments = []*stack.PacketBuffer
	for _, c := range []struct {
		name string
		in   segments
		want []int // payload bytes of each packet
	}{
		{
			"in sequence", segments{tcpData(0, 2500), tcpData(2500, 300), tcpData(2800, 1700)},
			[]int{1000, 1000, 1000, 1000, 500},
		},
		{
			"short", segments{tcpData(0, 400), tcpData(400, 400), tcpData(800, 400), tcpData(1200, 400)},
			[]int{1000, 600},
		},
		{"sequence wraps", segments{tcpData(0xffffff00, 300), tcpData(44, 300)}, []int{600}},
		{"full packets", segments{tcpData(0, 2000), tcpData(2000, 2000)}, []int{1000, 1000, 1000, 1000}},
		{"gap", segments{tcpData(0, 300), tcpData(301, 300)}, []int{300, 300}},
		{"retransmission", segments{tcpData(0, 300), tcpData(0, 300)}, []int{300, 300}},
		{"other port", segments{tcpData(0, 300), tcpData(300, 300, port)}, []int{300, 300}},
		{"other address", segments{tcpData(0, 300), tcpData(300, 300, addr)}, []int{300, 300}},
		{"other TOS", segments{tcpData(0, 300), tcpData(300, 300, tos)}, []int{300, 300}},
		{"other MSS", segments{tcpData(0, 300), otherMSS}, []int{300, 300}},
		{"FIN", segments{tcpData(0, 300), tcpData(300, 300, fin), tcpData(601, 300)}, []int{600, 300}},
		{"acknowledgement", segments{tcpData(0, 300), tcpData(300, 0), tcpData(300, 300)}, []int{300, 0, 300}},
	} {
		d := newDevice(DefaultMTU, 0, 1, tcpip.NewStdClock())
		q := d.queues[0]
		for _, pkt := range c.in {
			q.mu.Lock()
			q.pushLocked(pkt)
			q.mu.Unlock()
		}
		bufs, sizes := buffers(maxBatch)
		n := q.Read(bufs, sizes, 0)
		var got []int
		for i := range n {
			packet := bufs[i][:sizes[i]]
			if why := invalid(packet, DefaultMTU); why != "" {
				t.Errorf("%s: packet %d: %s", c.name, i, why)
			}
			tcp := header.TCP(packet[20:])
			for k, b := range tcp.Payload() {
				seq := tcp.SequenceNumber() + uint32(k)
				if want := byte(seq % 251); b != want {
					t.Fatalf("%s: packet %d: byte %d of the stream is %d, want %d", c.name, i, seq, b, want)
				}
			}
			got = append(got, len(tcp.Payload()))
			hasFIN := tcp.Flags()&header.TCPFlagFin != 0
			if c.name == "FIN" && i == 0 != hasFIN || i == n-1 && q.Waiting() > 0 {
				t.Errorf("%s: packet %d has flags %v, %d bytes wait", c.name, i, tcp.Flags(), q.Waiting())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: payloads %v, want %v", c.name, got, c.want)
		}
		d.Close()
	}
}
