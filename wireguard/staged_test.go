package wireguard

import "testing"

// The number of packets that wait is bounded, and so is the sum of their lengths. The newest is
// always kept.
func TestStagedBounds(t *testing.T) {
	for size, want := range map[int]int{60: maxStaged, 1420: maxStagedBytes / 1420, maxStagedBytes: 1} {
		var s staged
		dropped := 0
		for i := range 2 * maxStaged {
			packet := make([]byte, size)
			packet[0], packet[1] = byte(i>>8), byte(i)
			dropped += s.add(packet)
		}
		if len(s.packets) != want || dropped != 2*maxStaged-want || s.bytes != want*size {
			t.Errorf("of packets of %d bytes %d are kept, of %d bytes, and %d were dropped; want %d kept",
				size, len(s.packets), s.bytes, dropped, want)
		}
		packets := s.take()
		first := int(packets[0][0])<<8 | int(packets[0][1])
		if first != 2*maxStaged-want {
			t.Errorf("the oldest packet that is kept is number %d, want %d", first, 2*maxStaged-want)
		}
		if len(s.packets) != 0 || s.bytes != 0 {
			t.Error("something is left after take")
		}
	}
}
