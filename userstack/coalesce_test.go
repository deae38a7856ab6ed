package userstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// collector collects what the coalescer passes up.
type collector struct{ packets [][]byte }

func (u *collector) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	u.packets = append(u.packets, bytes.Clone(pkt.ToView().AsSlice()))
}

func (u *collector) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// segment describes a TCP packet.
type segment struct {
	v6      bool
	host    byte // last byte of the source address
	port    uint16
	seq     uint32
	ack     uint32
	flags   header.TCPFlags
	window  uint16
	ttl     uint8
	options []byte
	payload []byte
}

// bytes encodes the packet.
func (s segment) bytes() []byte {
	tcp := make([]byte, header.TCPMinimumSize+len(s.options), 2000)
	header.TCP(tcp).Encode(&header.TCPFields{SrcPort: s.port, DstPort: 80, SeqNum: s.seq, AckNum: s.ack,
		DataOffset: uint8(len(tcp)), Flags: s.flags, WindowSize: s.window})
	copy(tcp[header.TCPMinimumSize:], s.options)
	tcp = append(tcp, s.payload...)
	if s.v6 {
		ip := make([]byte, header.IPv6MinimumSize)
		src := addrB6.As16()
		src[15] = s.host
		header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(len(tcp)),
			TransportProtocol: header.TCPProtocolNumber, HopLimit: s.ttl,
			SrcAddr: tcpip.AddrFrom16(src), DstAddr: tcpip.AddrFrom16(addrA6.As16())})
		return append(ip, tcp...)
	}
	ip := make([]byte, header.IPv4MinimumSize)
	src := addrB4.As4()
	src[3] = s.host
	header.IPv4(ip).Encode(&header.IPv4Fields{TotalLength: uint16(len(ip) + len(tcp)),
		Protocol: uint8(header.TCPProtocolNumber), TTL: s.ttl,
		SrcAddr: tcpip.AddrFrom4(src), DstAddr: tcpip.AddrFrom4(addrA4.As4())})
	return append(ip, tcp...)
}

// data is a segment of n bytes from peer B.
func data(seq uint32, n int) segment {
	return segment{host: 2, port: 1000, seq: seq, ack: 7, flags: header.TCPFlagAck, window: 500, ttl: 64,
		options: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, payload: bytes.Repeat([]byte{byte(seq)}, n)}
}

func newCoalescer() *coalescer {
	return &coalescer{d: newDevice(DefaultMTU, 0, 1, tcpip.NewStdClock())}
}

// coalesce returns what is passed up for one batch.
func coalesce(segments ...segment) [][]byte {
	c := newCoalescer()
	var up collector
	for _, s := range segments {
		c.add(s.bytes(), &up)
	}
	c.flush(&up)
	return up.packets
}

func TestCoalesce(t *testing.T) {
	with := func(s segment, change func(*segment)) segment { change(&s); return s }
	for _, c := range []struct {
		name string
		in   []segment
		want []int // payload bytes of each packet that is passed up
	}{
		{"in sequence", []segment{data(0, 100), data(100, 100), data(200, 100)}, []int{300}},
		{"any size", []segment{data(0, 100), data(100, 50), data(150, 101)}, []int{251}},
		{"gap", []segment{data(0, 100), data(200, 100)}, []int{100, 100}},
		{"duplicate", []segment{data(0, 100), data(0, 100)}, []int{100, 100}},
		{"sequence wraps", []segment{data(0xffffffc0, 64), data(0, 64)}, []int{128}},
		{"PSH", []segment{
			with(data(0, 100), func(s *segment) { s.flags |= header.TCPFlagPsh }),
			data(100, 100),
		}, []int{200}},
		{"FIN", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.flags |= header.TCPFlagFin }),
			data(200, 100),
		}, []int{200, 100}},
		{"later acknowledgement", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.ack++ }),
		}, []int{200}},
		{"earlier acknowledgement", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.ack-- }),
		}, []int{100, 100}},
		{"later timestamp", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.options[7]++ }),
		}, []int{200}},
		{"other options", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.options[2] = 5 }),
		}, []int{100, 100}},
		{"more options", []segment{
			data(0, 100),
			with(data(100, 100), func(s *segment) { s.options = append(s.options, 1, 1, 1, 1) }),
		}, []int{100, 100}},
		{"other TTL", []segment{data(0, 100), with(data(100, 100), func(s *segment) { s.ttl-- })}, []int{100, 100}},
		{"ECN", []segment{data(0, 100), with(data(100, 100), func(s *segment) { s.flags |= 1 << 6 })}, []int{100, 100}},
		{"acknowledgement between data", []segment{
			data(0, 100),
			with(data(100, 0), func(s *segment) { s.ack++ }),
			with(data(100, 100), func(s *segment) { s.ack++ }),
		}, []int{200}},
		{"acknowledgements", []segment{
			data(0, 0),
			with(data(0, 0), func(s *segment) { s.ack++ }),
			with(data(0, 0), func(s *segment) { s.ack += 9 }),
		}, []int{0}},
		{"duplicate acknowledgements", []segment{data(0, 0), data(0, 0), data(0, 0)}, []int{0, 0, 0}},
		{"acknowledgement before data", []segment{data(0, 0), data(0, 100), data(100, 100)}, []int{0, 200}},
		{"duplicate acknowledgements after data", []segment{
			data(0, 100),
			data(100, 0),
			data(100, 0),
		}, []int{100, 0, 0}},
		{"acknowledgement with SACK", []segment{
			data(0, 0),
			with(data(0, 0), func(s *segment) {
				s.ack++
				s.options = append(s.options, 1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 12)
			}),
		}, []int{0, 0}},
		{"FIN without data", []segment{
			data(0, 100),
			with(data(100, 0), func(s *segment) { s.flags |= header.TCPFlagFin }),
		}, []int{100, 0}},
		{"RST is passed up last", []segment{
			data(0, 100),
			with(data(100, 0), func(s *segment) { s.flags |= header.TCPFlagRst }),
		}, []int{100, 0}},
		{"two flows", []segment{
			data(0, 10),
			with(data(0, 20), func(s *segment) { s.port++ }),
			data(10, 10),
			with(data(20, 20), func(s *segment) { s.port++ }),
		}, []int{20, 40}},
		{"two hosts", []segment{
			data(0, 10),
			with(data(0, 20), func(s *segment) { s.host++ }),
			data(10, 10),
		}, []int{20, 20}},
		{"two families", []segment{
			data(0, 10),
			with(data(10, 10), func(s *segment) { s.v6 = true }),
			data(10, 10),
			with(data(20, 10), func(s *segment) { s.v6 = true }),
		}, []int{20, 20}},
	} {
		got := coalesce(c.in...)
		var sizes []int
		for _, p := range got {
			_, hdr, _ := classify(p)
			sizes = append(sizes, len(p)-hdr)
		}
		if fmt.Sprint(sizes) != fmt.Sprint(c.want) {
			t.Errorf("%s: payloads %v, want %v", c.name, sizes, c.want)
		}
	}
}

// A merged packet has the last acknowledgement, window, echo and flags, the first timestamp, and
// correct lengths.
func TestCoalesceKeeps(t *testing.T) {
	last := data(100, 100)
	last.flags |= header.TCPFlagPsh | header.TCPFlagFin
	last.window = 502 // lowerWindow subtracts 1
	last.ack += 1000
	last.options = []byte{1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4}
	for _, v6 := range []bool{false, true} {
		first, last := data(0, 100), last
		first.v6, last.v6 = v6, v6
		got := coalesce(first, last)
		if len(got) != 1 {
			t.Fatalf("%d packets, want 1", len(got))
		}
		l4, hdr, _ := classify(got[0])
		tcp := header.TCP(got[0][l4:])
		if tcp.Flags() != last.flags || tcp.WindowSize() != 501 || tcp.SequenceNumber() != 0 ||
			tcp.AckNumber() != last.ack || len(got[0])-hdr != 200 {
			t.Errorf("merged packet has flags %v, window %d, sequence %d, acknowledgement %d, %d bytes",
				tcp.Flags(), tcp.WindowSize(), tcp.SequenceNumber(), tcp.AckNumber(), len(got[0])-hdr)
		}
		if ts := tcp.ParsedOptions(); ts.TSVal != 1 || ts.TSEcr != 4 {
			t.Errorf("merged packet has timestamp %d and echoes %d, want 1 and 4", ts.TSVal, ts.TSEcr)
		}
	}
}

// Merged random batches carry the same as the single packets: the bytes and flags of each flow in
// the same order, acknowledgement numbers that end with the last one, and each duplicate
// acknowledgement.
func TestCoalesceAgainstNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	d := newCoalescer().d
	for round := range 2000 {
		seqs, acks := map[string]uint32{}, map[string]uint32{}
		var in [][]byte
		for range 1 + r.IntN(2*maxBatch) {
			s := data(0, r.IntN(4)*100)
			s.v6 = r.IntN(4) == 0
			s.port += uint16(r.IntN(12))
			s.host += byte(r.IntN(2))
			id := fmt.Sprint(s.v6, s.port, s.host)
			if r.IntN(20) == 0 {
				seqs[id] += 1000
			}
			s.seq = seqs[id]
			s.payload = randomBytes(len(s.payload), uint64(s.seq))
			seqs[id] += uint32(len(s.payload))
			acks[id] += uint32(r.IntN(4)/3) * 100
			s.ack = acks[id]
			if r.IntN(10) == 0 {
				s.flags |= header.TCPFlagPsh
			}
			if r.IntN(40) == 0 {
				s.flags |= []header.TCPFlags{header.TCPFlagFin, header.TCPFlagRst, header.TCPFlagSyn}[r.IntN(3)]
			}
			in = append(in, s.bytes())
		}
		c := &coalescer{d: d}
		var up collector
		for _, p := range in {
			c.add(p, &up)
		}
		c.flush(&up)
		wantAcks, gotAcks := acknowledgements(in), acknowledgements(up.packets)
		for flow, want := range wantAcks {
			if got := gotAcks[flow]; want != got {
				t.Fatalf("round %d, flow %s: acknowledges %+v, want %+v", round, flow, got, want)
			}
		}
		want, got := conversation(in), conversation(up.packets)
		for flow := range want {
			if want[flow] != got[flow] {
				t.Fatalf("round %d, flow %s:\n got %.300s\nwant %.300s", round, flow, got[flow], want[flow])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("round %d: %d flows, want %d", round, len(got), len(want))
		}
	}
}

// acknowledged is the highest acknowledgement number of a flow, and its duplicates.
type acknowledged struct {
	last     uint32
	repeated int
}

func acknowledgements(packets [][]byte) map[string]acknowledged {
	out := map[string]acknowledged{}
	for _, p := range packets {
		l4, hdr, _ := classify(p)
		tcp, flow := header.TCP(p[l4:]), flowOfPacket(p, l4)
		a, known := out[flow]
		switch more := int32(tcp.AckNumber() - a.last); {
		case !known || more > 0:
			a = acknowledged{last: tcp.AckNumber()} // duplicates of a lower number no longer matter
		case more == 0 && len(p) == hdr && tcp.Flags() == header.TCPFlagAck:
			a.repeated++
		}
		out[flow] = a
	}
	return out
}

func flowOfPacket(p []byte, l4 int) string {
	addrs := p[12:20]
	if p[0]>>4 == 6 {
		addrs = p[8:40]
	}
	return fmt.Sprintf("%x %d", addrs, header.TCP(p[l4:]).SourcePort())
}

// conversation renders the bytes and flags of each flow, independent of packet boundaries.
func conversation(packets [][]byte) map[string]string {
	out := map[string]*bytes.Buffer{}
	for _, p := range packets {
		l4, hdr, _ := classify(p)
		tcp := header.TCP(p[l4:])
		flow := flowOfPacket(p, l4)
		if out[flow] == nil {
			out[flow] = new(bytes.Buffer)
		}
		w := out[flow]
		payload := p[hdr:]
		for i, b := range payload {
			w.Write(binary.BigEndian.AppendUint32(nil, tcp.SequenceNumber()+uint32(i)))
			w.WriteByte(b)
		}
		if rest := tcp.Flags() &^ (header.TCPFlagAck | header.TCPFlagPsh); rest != 0 {
			fmt.Fprintf(w, "[%v at %d]", rest, tcp.SequenceNumber()+uint32(len(payload)))
		}
	}
	text := map[string]string{}
	for flow, w := range out {
		text[flow] = w.String()
	}
	return text
}

func BenchmarkCoalesce(b *testing.B) {
	var packets [][]byte
	for i := range 45 {
		packets = append(packets, data(uint32(i*1368), 1368).bytes())
	}
	sink := discardUp{}
	b.SetBytes(45 * 1420)
	b.ReportAllocs()
	d := newCoalescer().d
	for b.Loop() {
		c := coalescer{d: d}
		for _, p := range packets {
			c.add(p, sink)
		}
		c.flush(sink)
	}
}

type discardUp struct{}

func (discardUp) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}
func (discardUp) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer)    {}
