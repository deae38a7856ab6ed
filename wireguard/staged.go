package wireguard

const (
	// maxStaged and maxStagedBytes limit the packets that are staged for one peer. Above either
	// limit the oldest packets are discarded. Many small packets have to fit, because many
	// connections may start at once, each with a SYN.
	maxStaged      = 1024
	maxStagedBytes = 192 << 10
)

// staged holds the packets of one peer that wait for a keypair, oldest first.
type staged struct {
	packets [][]byte
	bytes   int
}

// add keeps a copy of a packet, and returns how many packets it discarded.
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

// take removes and returns all packets.
func (s *staged) take() (packets [][]byte) {
	packets = s.packets
	*s = staged{}
	return packets
}
