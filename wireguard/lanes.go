package wireguard

// lanes counts the peers in each lane of the Bind. Only runHandshakes uses it.
//
// A peer keeps its lane while it has a keypair, a handshake or a persistent keepalive. The receiver
// indices of all its keypairs lead to that lane; therefore messages are not reordered when one
// keypair replaces another. The cost: up to three of the 32 bits of the index stay the same, which
// an observer can see.
type lanes []int

// noLane marks a peer without a lane.
const noLane = -1

// enter assigns p to the lane with the fewest peers, unless p has a lane.
func (l lanes) enter(p *peer) {
	if p.lane != noLane {
		return
	}
	p.lane = 0
	for i, n := range l {
		if n < l[p.lane] {
			p.lane = i
		}
	}
	l[p.lane]++
}

// leave removes p from its lane, if it has one.
func (l lanes) leave(p *peer) {
	if p.lane != noLane {
		l[p.lane]--
		p.lane = noLane
	}
}

// index returns the random number n with its low bits replaced by the number of p's lane.
func (l lanes) index(n uint32, p *peer) uint32 {
	mask := uint32(len(l) - 1) // len(l) is a power of two
	return n&^mask | uint32(p.lane)
}
