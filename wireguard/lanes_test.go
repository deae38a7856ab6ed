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

	"ginnel/internal/key"
)

// queuedTun is a Tun with several queues. A packet waits in the one that the last byte of its
// destination names.
type queuedTun struct {
	*tun   // what comes; its queue is not used
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

// laneLog is a Bind that keeps by which lanes data messages were sent.
type laneLog struct {
	*port
	mu   sync.Mutex
	seen map[string]map[int]bool // by the name of the receiver
}

func (l *laneLog) Send(lane int, messages [][]byte, to conn.Endpoint) error {
	if messageType(messages[0]) == typeData {
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

// Each queue of a Tun sends by its own lane, and packets to one address stay in order while all
// queues send at once.
func TestQueues(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const queues, peers, packets = 4, 8, 500
		up, bind := newQueuedTun(queues), &laneLog{port: newPort("host1"), seen: make(map[string]map[int]bool)}
		a := &host{tun: up.tun, port: bind.port, key: key.NewNodePrivate(), addr: netip.MustParseAddr("100.64.0.1")}
		a.Device = New(up, bind, a.key, slog.New(slog.DiscardHandler))
		defer a.Close()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		others := meet(t, a, 2, peers)
		for _, b := range others { // all have a session before the crowd
			b.say(a, "hello")
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
				t.Errorf("what is in queue %d was sent by lanes %v", up.queueFor(b.addr), lanes)
			}
		}
	})
}

// meet returns hosts number first and following that a knows, and who know a.
func meet(t *testing.T, a *host, first, peers int) (others []*host) {
	for n := range peers {
		b := newHost(t, first+n)
		others = append(others, b)
		a.SetPeer(b.as())
		b.SetPeer(a.as())
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
	}
	return others
}

// lanesOf returns the lanes of the receiver indexes in the messages that b sends to a while f runs.
func lanesOf(a, b *host, f func()) []uint32 {
	var mu sync.Mutex
	var lanes []uint32
	b.port.filter(func(m []byte, to *port) bool {
		if messageType(m) == typeData && to == a.port {
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

// A peer keeps its lane from one session to the next, whoever begins it.
func TestLaneOutlivesSessions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		for i, b := range meet(t, a, 2, 6) {
			began := a.count(typeInitiation)
			lanes := lanesOf(a, b, func() {
				for range 60 {
					if i%2 == 0 {
						a.say(b, "x")
						synctest.Wait() // so that a begins
					}
					b.say(a, "y")
					time.Sleep(10 * time.Second)
				}
			})
			if len(lanes) != 1 {
				t.Errorf("messages of one peer came by lanes %v, want one", lanes)
			}
			if n := began.n(); i%2 == 0 && n < 4 || i%2 == 1 && n > 0 {
				t.Errorf("%d of the sessions of peer %d were begun here", n, i)
			}
		}
	})
}

// Peers share lanes evenly, and a new one gets the lane that others have left.
func TestLanesAreShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		laneOf := func(b *host) uint32 {
			lanes := lanesOf(a, b, func() { b.say(a, "x") })
			if len(lanes) != 1 {
				t.Fatalf("%s sends by lanes %v, want one", b.port.name, lanes)
			}
			return lanes[0]
		}
		inLane := make(map[uint32][]*host)
		for _, b := range meet(t, a, 2, 8) {
			inLane[laneOf(b)] = append(inLane[laneOf(b)], b)
		}
		for lane, hosts := range inLane {
			if len(inLane) != 4 || len(hosts) != 2 {
				t.Errorf("lane %d of %d has %d of eight peers, want two in each of four", lane, len(inLane), len(hosts))
			}
		}
		for _, b := range inLane[2] {
			a.RemovePeer(b.key.Public())
		}
		for _, b := range meet(t, a, 10, 2) {
			if lane := laneOf(b); lane != 2 {
				t.Errorf("a new peer is in lane %d, want 2, which others have left", lane)
			}
		}
	})
}

// Peers whose sessions have ended are in no lane.
func TestLanesOfEndedSessions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a := newLanedHost(t, 4)
		for _, b := range meet(t, a, 2, 6) {
			b.say(a, "x")
		}
		time.Sleep(time.Duration(forgetAfter) + time.Minute)
		a.Close() // loop, to which the lanes belong, has ended
		if !slices.Equal(a.lanes, lanes{0, 0, 0, 0}) {
			t.Errorf("peers in lanes: %v, want none", a.lanes)
		}
	})
}

// newLanedHost returns a host whose bind has several lanes.
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
