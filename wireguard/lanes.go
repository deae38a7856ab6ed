package wireguard

// lanes is the number of peers in each lane of the bind. Only loop uses it.
//
// A peer keeps its lane while loop has something to do for it: while there is a session, a
// handshake or a persistent keepalive. The receiver indexes of all its sessions lead to that lane,
// so messages are not reordered when one session follows another. The cost: up to three of the 32
// bits of the index stay the same, which an observer can see.
type lanes []int

// noLane is the lane of a peer that has none.
const noLane = -1

// enter gives p the lane that has the fewest peers, unless p has a lane already.
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

// leave takes back p's lane, if it has one.
func (l lanes) leave(p *peer) {
	if p.lane != noLane {
		l[p.lane]--
		p.lane = noLane
	}
}

// index returns the receiver index that leads to p's lane and has its other bits from n, which is
// random.
func (l lanes) index(n uint32, p *peer) uint32 {
	mask := uint32(len(l) - 1) // len(l) is a power of two
	return n&^mask | uint32(p.lane)
}
