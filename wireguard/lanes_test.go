package wireguard

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
)

// queuedTun is a Tun with several queues. The last byte of the destination chooses the queue of a
// packet.
type queuedTun struct {
	*tun   // for incoming packets; its queue is not used
	queues []*tun
}

func newQueuedTun(queues int) *queuedTun {
	u := &queuedTun{tun: new(tun)}
	for range queues {
		u.queues = append(u.queues, new(tun))
	}
	return u
}

func (u *queuedTun) Queues() (all []Queue) {
	for _, q := range u.queues {
		all = append(all, q)
	}
	return all
}

func (u *queuedTun) queueFor(dst netip.Addr) int { return int(dst.As16()[15]) % len(u.queues) }

// laneRecorder is a Bind that records in which lanes transport data messages are sent.
type laneRecorder struct {
	*port
	mu   sync.Mutex
	seen map[string]map[int]bool // by the name of the destination port
}

func (l *laneRecorder) Send(lane int, messages [][]byte, to conn.Endpoint) error {
	if messageType(messages[0]) == typeTransport {
		name := to.DstToString()
		l.mu.Lock()
		if l.seen[name] == nil {
			l.seen[name] = make(map[int]bool)
		}
		l.seen[name][lane] = true
		l.mu.Unlock()
	}
	return l.port.Send(lane, messages, to)
}

// Each queue of a Tun sends in its own lane, and packets to one address stay in order while all
// queues send at the same time.
func TestQueues(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const queues, peers, packets = 4, 8, 500
		up, bind := newQueuedTun(queues), &laneRecorder{port: newPort("host1"), seen: make(map[string]map[int]bool)}
		a := &host{tun: up.tun, port: bind.port, key: key.NewNodePrivate(), addr: netip.MustParseAddr("100.64.0.1")}
		a.Device = New(up, bind, a.key, slog.New(slog.DiscardHandler))
		defer a.Close()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		others := newPeersOf(t, a, 2, peers)
		for _, b := range others { // all have a keypair before the queues start
			b.sendText(a, "hello")
		}
		synctest.Wait()
		var wg sync.WaitGroup
		for _, b := range others {
			wg.Go(func() {
				for i := range packets {
					up.queues[up.queueFor(b.addr)].send(packet(a.addr, b.addr, fmt.Sprint(i)))
				}
			})
		}
		wg.Wait()
		var want []string
		for i := range packets {
			want = append(want, fmt.Sprint(i))
		}
		for _, b := range others {
			wantTexts(t, b, want...)
			if lanes := bind.seen[b.port.name]; len(lanes) != 1 || !lanes[up.queueFor(b.addr)] {
				t.Errorf("packets of queue %d were sent in lanes %v", up.queueFor(b.addr), lanes)
			}
		}
	})
}

// newPeersOf returns new hosts, numbered from first on, that are peers of a.
func newPeersOf(t *testing.T, a *host, first, peers int) (others []*host) {
	for n := range peers {
		b := newHost(t, first+n)
		others = append(others, b)
		a.SetPeer(b.asPeer())
		b.SetPeer(a.asPeer())
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
	}
	return others
}

// lanesOf returns the lanes of the receiver indices in the messages that b sends to a while f runs.
func lanesOf(a, b *host, f func()) []uint32 {
	var mu sync.Mutex
	var lanes []uint32
	b.port.filter(func(m []byte, to *port) bool {
		if messageType(m) == typeTransport && to == a.port {
			mu.Lock()
			defer mu.Unlock()
			if lane := uint32(m[4]) % uint32(a.port.lanes); !slices.Contains(lanes, lane) {
				lanes = append(lanes, lane)
			}
		}
		return true
	})
	f()
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	return lanes
}

// A peer keeps its lane from one keypair to the next, whichever side initiates the handshake.
func TestLaneOutlivesKeypairs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		for i, b := range newPeersOf(t, a, 2, 6) {
			initiations := a.count(typeInitiation)
			lanes := lanesOf(a, b, func() {
				for range 60 {
					if i%2 == 0 {
						a.sendText(b, "x")
						synctest.Wait() // so that a initiates the handshake
					}
					b.sendText(a, "y")
					time.Sleep(10 * time.Second)
				}
			})
			if len(lanes) != 1 {
				t.Errorf("messages of one peer arrived in lanes %v, want one lane", lanes)
			}
			if n := initiations.n(); i%2 == 0 && n < 4 || i%2 == 1 && n > 0 {
				t.Errorf("%d handshakes with peer %d were initiated here", n, i)
			}
		}
	})
}

// Peers are spread evenly over the lanes, and a new peer gets the lane that removed peers have
// left.
func TestLanesAreShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		laneOf := func(b *host) uint32 {
			lanes := lanesOf(a, b, func() { b.sendText(a, "x") })
			if len(lanes) != 1 {
				t.Fatalf("%s sends in lanes %v, want one lane", b.port.name, lanes)
			}
			return lanes[0]
		}
		inLane := make(map[uint32][]*host)
		for _, b := range newPeersOf(t, a, 2, 8) {
			inLane[laneOf(b)] = append(inLane[laneOf(b)], b)
		}
		for lane, hosts := range inLane {
			if len(inLane) != 4 || len(hosts) != 2 {
				t.Errorf("lane %d of %d has %d of eight peers, want two in each of four lanes", lane, len(inLane), len(hosts))
			}
		}
		for _, b := range inLane[2] {
			a.RemovePeer(b.key.Public())
		}
		for _, b := range newPeersOf(t, a, 10, 2) {
			if lane := laneOf(b); lane != 2 {
				t.Errorf("a new peer is in lane %d, want the empty lane 2", lane)
			}
		}
	})
}

// Peers whose keypairs were dropped are in no lane.
func TestLanesOfDroppedKeypairs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		for _, b := range newPeersOf(t, a, 2, 6) {
			b.sendText(a, "x")
		}
		time.Sleep(time.Duration(zeroKeysAfter) + time.Minute)
		a.Close() // ends runHandshakes, which owns the lanes
		if !slices.Equal(a.lanes, lanes{0, 0, 0, 0}) {
			t.Errorf("peers per lane: got %v, want none", a.lanes)
		}
	})
}

// newLanedHost returns a host whose Bind has several lanes.
func newLanedHost(t *testing.T, lanes int) *host {
	h := &host{tun: new(tun), port: newPort("host1"), key: key.NewNodePrivate(), addr: netip.MustParseAddr("100.64.0.1")}
	h.port.lanes = lanes
	h.Device = New(h.tun, h.port, h.key, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Close() })
	if err := h.Up(); err != nil {
		t.Fatal(err)
	}
	return h
}
