package wireguard

import "testing"

// The number of staged packets and the sum of their lengths are bounded. The newest packet is
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
			t.Errorf("packets of %d bytes: kept %d with %d bytes, dropped %d; want %d kept",
				size, len(s.packets), s.bytes, dropped, want)
		}
		packets := s.take()
		first := int(packets[0][0])<<8 | int(packets[0][1])
		if first != 2*maxStaged-want {
			t.Errorf("oldest kept packet: got number %d, want %d", first, 2*maxStaged-want)
		}
		if len(s.packets) != 0 || s.bytes != 0 {
			t.Error("staged is not empty after take")
		}
	}
}
