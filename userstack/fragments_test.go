package userstack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The filter sees only the first fragment of a datagram. A later one must not overwrite what the
// filter has seen (RFC 1858, section 3): the reassembler drops datagrams whose fragments overlap.
func TestOverlappingFragmentsAreDropped(t *testing.T) {
	for _, family := range []struct {
		name     string
		src, dst netip.Addr
		fragment func(src, dst netip.Addr, id uint16, offset int, more uint16, payload []byte) []byte
	}{
		{"IPv4", addrA4, addrB4, fragment4},
		{"IPv6", addrA6, addrB6, fragment6},
	} {
		t.Run(family.name, func(t *testing.T) {
			p := newPair(t, 0)
			c, err := p.b.ListenPacket(netip.AddrPortFrom(family.dst, 53))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			datagram := udpDatagram(family.src, family.dst, []byte("sixteen bytes, 2"))
			send := func(id uint16, offset int, more uint16, payload []byte) {
				p.b.Device().Write([][]byte{family.fragment(family.src, family.dst, id, offset, more, payload)}, 0)
			}
			// The second fragment overlaps the first by 8 bytes: all of it, or a part of it.
			send(1, 0, 1, datagram[:16])
			send(1, 8, 0, datagram[8:])
			send(2, 0, 1, datagram[:16])
			send(2, 0, 1, datagram[:8])
			send(2, 16, 0, datagram[16:])
			// Fragments that do not overlap are reassembled.
			send(3, 0, 1, datagram[:16])
			send(3, 16, 0, datagram[16:])

			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 100)
			if n, _, err := c.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != string(datagram[8:]) {
				t.Fatalf("got %q, %v, want the datagram of the fragments without overlap", buf[:n], err)
			}
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, _, err := c.ReadFromUDPAddrPort(buf); err == nil {
				t.Errorf("got another datagram %q: one with overlapping fragments was delivered", buf[:n])
			}
		})
	}
}

func udpDatagram(src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize+len(payload))
	copy(b[header.UDPMinimumSize:], payload)
	h := header.UDP(b)
	h.Encode(&header.UDPFields{SrcPort: 1000, DstPort: 53, Length: uint16(len(b))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpip.AddrFromSlice(src.AsSlice()),
		tcpip.AddrFromSlice(dst.AsSlice()), uint16(len(b)))
	for i := header.UDPMinimumSize; i < len(b); i += 2 {
		sum = addWord(sum, binary.BigEndian.Uint16(b[i:]))
	}
	h.SetChecksum(^h.CalculateChecksum(sum))
	return b
}

// addWord adds to a ones' complement sum.
func addWord(sum, word uint16) uint16 {
	total := uint32(sum) + uint32(word)
	return uint16(total) + uint16(total>>16)
}

func fragment4(src, dst netip.Addr, id uint16, offset int, more uint16, payload []byte) []byte {
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(cap(b)), ID: id, Flags: uint8(more) * header.IPv4FlagMoreFragments,
		FragmentOffset: uint16(offset),
		TTL:            64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: tcpip.AddrFromSlice(src.AsSlice()), DstAddr: tcpip.AddrFromSlice(dst.AsSlice()),
	})
	h.SetChecksum(^h.CalculateChecksum())
	return append(b, payload...)
}

func fragment6(src, dst netip.Addr, id uint16, offset int, more uint16, payload []byte) []byte {
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+8+len(payload))
	b[0], b[6], b[7] = 0x60, uint8(header.IPv6FragmentExtHdrIdentifier), 64
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	b = append(b, uint8(header.UDPProtocolNumber), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(offset)|more)
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	return append(b, payload...)
}
