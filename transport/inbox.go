package transport

import (
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// inbox hands packets from the readers of relays to WireGuard's receive function without keeping any: a reader copies
// into the buffers that the receive function waits with. While WireGuard is busy the readers wait, so a fast relay is
// slowed down by TCP instead of losing packets here.
type inbox struct {
	mu     sync.Mutex
	taken  sync.Cond // the receive function waits for packets
	room   sync.Cond // readers wait for buffers
	opened bool

	bufs  [][]byte // offered by take; nil when nobody waits
	sizes []int
	eps   []conn.Endpoint
	n     int // how many are filled
}

func (in *inbox) init() {
	in.taken.L, in.room.L = &in.mu, &in.mu
}

func (in *inbox) open() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.opened = true
}

// close makes take return 0 and put drop.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.opened = false
	in.taken.Broadcast()
	in.room.Broadcast()
}

// take offers buffers and blocks until some are filled; 0 means closed.
func (in *inbox) take(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bufs, in.sizes, in.eps, in.n = bufs, sizes, eps, 0
	in.room.Broadcast()
	for in.n == 0 && in.opened {
		in.taken.Wait()
	}
	n := in.n
	in.bufs, in.sizes, in.eps, in.n = nil, nil, nil, 0
	return n
}

// put hands over packets from e. It waits for buffers as often as it needs and returns how many packets were dropped
// because the inbox is closed.
func (in *inbox) put(e *endpoint, packets [][]byte) (dropped int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(packets) > 0 {
		for in.opened && in.n == len(in.bufs) {
			in.room.Wait()
		}
		if !in.opened {
			return len(packets)
		}
		for len(packets) > 0 && in.n < len(in.bufs) {
			in.sizes[in.n] = copy(in.bufs[in.n], packets[0])
			in.eps[in.n] = e
			in.n++
			packets = packets[1:]
		}
		in.taken.Signal()
	}
	return 0
}
