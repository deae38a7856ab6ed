package wireguard

const (
	// maxStaged packets of a peer wait for a session, as long as they are not more than
	// maxStagedBytes. Of more the oldest go. Many small ones have to fit, because each of many
	// connections begins with a SYN.
	maxStaged      = 1024
	maxStagedBytes = 192 << 10
)

// staged are packets that wait for a session, oldest first.
type staged struct {
	packets [][]byte
	bytes   int
}

// add keeps a copy of a packet, and returns how many others had to go for it.
func (s *staged) add(packet []byte) (dropped int) {
	s.packets = append(s.packets, append([]byte(nil), packet...))
	s.bytes += len(packet)
	for len(s.packets) > maxStaged || s.bytes > maxStagedBytes {
		s.bytes -= len(s.packets[0])
		s.packets[0] = nil
		s.packets = s.packets[1:]
		dropped++
	}
	return dropped
}

// take empties s and returns what was in it.
func (s *staged) take() (packets [][]byte) {
	packets = s.packets
	*s = staged{}
	return packets
}
