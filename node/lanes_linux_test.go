//go:build linux && !ginnel_stdnet

package node

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
	"ginnel/transport"
	"ginnel/wireguard"
)

// This file tests the lanes of the transport together with the queues of WireGuard, over UDP on
// loopback. There is no TCP: packets carry a number.

const (
	laneMTU    = 1420
	laneHeader = 20 // of IPv4; the number follows
)

// numberQueue is a queue of packets from src to dst, numbered from 0 up to a limit.
type numberQueue struct {
	src, dst    netip.Addr
	size        int
	ready       func()
	next, limit atomic.Int64
}

func (q *numberQueue) Notify(ready func()) { q.ready = ready }

// allow raises the limit by n.
func (q *numberQueue) allow(n int) {
	q.limit.Add(int64(n))
	q.ready()
}

func (q *numberQueue) Waiting() int { return int(q.limit.Load()-q.next.Load()) * q.size }

func (q *numberQueue) Read(bufs [][]byte, sizes []int, offset int) (n int) {
	for ; n < len(bufs) && q.next.Load() < q.limit.Load(); n++ {
		b := bufs[n][offset : offset+q.size]
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(q.size))
		src, dst := q.src.As4(), q.dst.As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		binary.BigEndian.PutUint64(b[laneHeader:], uint64(q.next.Add(1)-1))
		sizes[n] = q.size
	}
	return n
}

// numberTun is a Tun with such queues. It calls take, if that is set, with received packets, from
// several goroutines at a time.
type numberTun struct {
	queues []*numberQueue
	take   func(packets [][]byte, offset int)
}

func (u *numberTun) Queues() (all []wireguard.Queue) {
	for _, q := range u.queues {
		all = append(all, q)
	}
	return all
}

func (u *numberTun) Write(bufs [][]byte, offset int) (int, error) {
	if u.take != nil {
		u.take(bufs, offset)
	}
	return len(bufs), nil
}

func (u *numberTun) BatchSize() int { return 45 }
func (u *numberTun) MTU() int       { return laneMTU }
func (u *numberTun) Close() error   { return nil }

// laneHost is WireGuard with a transport on loopback.
type laneHost struct {
	dev  *wireguard.Device
	conn *transport.Conn
	tun  *numberTun
	key  key.NodePrivate
	addr netip.Addr
}

// newLaneHost makes host n. If wrap is set, WireGuard's Bind is what wrap returns.
func newLaneHost(tb testing.TB, n, lanes int, tun *numberTun, wrap func(*transport.Conn) wireguard.Bind) *laneHost {
	tb.Helper()
	h := &laneHost{tun: tun, key: key.NewNodePrivate(), addr: laneAddr(n)}
	var err error
	if h.conn, err = transport.New(transport.Config{Addr: loopback, Lanes: lanes}); err != nil {
		tb.Fatal(err)
	}
	if h.conn.Lanes() != lanes {
		tb.Fatalf("%d lanes, want %d", h.conn.Lanes(), lanes)
	}
	bind := wireguard.Bind(h.conn)
	if wrap != nil {
		bind = wrap(h.conn)
	}
	h.dev = wireguard.New(tun, bind, h.key, slog.New(slog.DiscardHandler))
	tb.Cleanup(func() { h.dev.Close() })
	return h
}

func laneAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 0, byte(n)}) }

// knows makes o a plain peer of h.
func (h *laneHost) knows(tb testing.TB, o *laneHost) {
	tb.Helper()
	ep, err := h.conn.ParseEndpoint(netip.AddrPortFrom(loopback, o.conn.LocalPort()).String())
	if err != nil {
		tb.Fatal(err)
	}
	h.dev.SetPeer(wireguard.Peer{Key: o.key.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(o.addr, 32)},
		Endpoint: ep})
}

// star is a host in the middle and others with which it exchanges packets. Queues are in the order
// of the others.
type star struct {
	middle *laneHost
	others []*laneHost
	in     []*numberQueue // from the others to the middle
	out    []*numberQueue // from the middle to the others
}

// hub configures a star.
type hub struct {
	lanes, queues int // of the middle
	others        int
	size          int                                  // of packets
	take          func(packets [][]byte, offset int)   // what the middle gets
	wrap          func(*transport.Conn) wireguard.Bind // see newLaneHost; for the middle
	wrapOthers    func(*transport.Conn) wireguard.Bind
}

func (c hub) build(tb testing.TB) *star {
	tb.Helper()
	s := &star{}
	tun := &numberTun{take: c.take}
	for q := range c.queues {
		tun.queues = append(tun.queues, &numberQueue{src: laneAddr(0), dst: laneAddr(q + 1), size: c.size})
	}
	s.middle, s.out = newLaneHost(tb, 0, c.lanes, tun, c.wrap), tun.queues
	for n := range c.others {
		q := &numberQueue{src: laneAddr(n + 1), dst: laneAddr(0), size: c.size}
		o := newLaneHost(tb, n+1, 1, &numberTun{queues: []*numberQueue{q}}, c.wrapOthers)
		s.others, s.in = append(s.others, o), append(s.in, q)
		o.knows(tb, s.middle)
		s.middle.knows(tb, o)
	}
	for _, h := range append(s.others, s.middle) {
		if err := h.dev.Up(); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// orderCheck has the next number expected of each source.
type orderCheck struct {
	next [256]atomic.Int64 // by the last byte of the source
	gotc [256]chan int64   // numbers that end a round
}

// round is the number of packets that are sent before more are allowed, so that no socket buffer
// overflows.
const round = 16

func (o *orderCheck) take(packets [][]byte, offset int) {
	for _, b := range packets {
		b = b[offset:]
		src, number := b[15], int64(binary.BigEndian.Uint64(b[laneHeader:]))
		if !o.next[src].CompareAndSwap(number, number+1) {
			o.gotc[src] <- -1 - number
			return
		}
		if (number+1)%round == 0 {
			o.gotc[src] <- number
		}
	}
}

// With many peers in several lanes all packets arrive, and those of each peer in the order in which
// they were sent.
func TestLanesKeepOrder(t *testing.T) {
	for _, lanes := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(lanes, " lanes"), func(t *testing.T) {
			const others, rounds = 9, 100
			var check orderCheck
			for i := range check.gotc {
				check.gotc[i] = make(chan int64, 2*round)
			}
			s := hub{lanes: lanes, queues: 1, others: others, size: 200, take: check.take}.build(t)
			var wg sync.WaitGroup
			for i, q := range s.in {
				wg.Go(func() {
					for r := range rounds {
						q.allow(round)
						want := int64(r+1)*round - 1
						select {
						case got := <-check.gotc[i+1]:
							if got != want {
								t.Errorf("peer %d: packet %d came out of order, want up to %d", i, -1-got, want)
								return
							}
						case <-time.After(10 * time.Second):
							t.Errorf("peer %d: packets up to %d did not come; next is %d", i, want, check.next[i+1].Load())
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// directTo starts a server and other nodes that reach it directly, all with the same number of
// processors to plan for. Each of the others has a connection to port 9 of the server.
func directTo(tb testing.TB, clients, processors int) (out, in []net.Conn) {
	tb.Helper()
	m := newMesh(tb)
	server := m.add("server")
	for i := range clients {
		m.add(fmt.Sprint("client", i))
	}
	for _, n := range m.nodes {
		n.startReady(func(c *Config) { c.Processors = processors })
	}
	if got, want := server.plane.conn.Lanes(), server.cfg.lanes(); got != want {
		tb.Fatalf("%d lanes with %d processors, want %d", got, processors, want)
	}
	m.introduce()
	ln, err := server.Listen(netip.AddrPortFrom(server.addr, 9))
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	for _, n := range m.nodes[1:] {
		n.Node.Ping(tb.Context(), "server")
		eventually(tb, "a direct path", func() bool { return n.path(server) == PathDirect && server.path(n) == PathDirect })
		c, err := n.DialContext(tb.Context(), "tcp", "server:9")
		if err != nil {
			tb.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { c.Close(); s.Close() })
		out, in = append(out, c), append(in, s)
	}
	return out, in
}

// A node with several lanes delivers the bytes of several connections at once.
func TestNodeWithLanes(t *testing.T) {
	out, in := directTo(t, 3, 16)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { sendNumbers(t, out[i]) })
		wg.Go(func() { wantNumbers(t, in[i]) })
	}
	wg.Wait()
}

// numbers are the bytes that sendNumbers sends.
const numbers = 1 << 18

func sendNumbers(t *testing.T, c net.Conn) {
	defer c.Close()
	var b []byte
	for i := range uint32(numbers) {
		b = binary.BigEndian.AppendUint32(b, i)
	}
	if _, err := c.Write(b); err != nil {
		t.Error(err)
	}
}

func wantNumbers(t *testing.T, c net.Conn) {
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil || len(b) != 4*numbers {
		t.Errorf("%d bytes, %v, want %d", len(b), err, 4*numbers)
		return
	}
	for i := range uint32(numbers) {
		if got := binary.BigEndian.Uint32(b[4*i:]); got != i {
			t.Errorf("number %d is %d", i, got)
			return
		}
	}
}

// gate blocks its callers while it is shut.
type gate struct{ shut atomic.Pointer[chan struct{}] }

func (g *gate) close() {
	c := make(chan struct{})
	g.shut.Store(&c)
}

func (g *gate) open() { close(*g.shut.Swap(nil)) }

func (g *gate) pass() {
	if c := g.shut.Load(); c != nil {
		<-*c
	}
}

// tally counts events and reports when there are as many as expected.
type tally struct {
	n, want atomic.Int64
	donec   chan struct{} // capacity 1
}

func newTally() *tally { return &tally{donec: make(chan struct{}, 1)} }

func (t *tally) expect(n int) {
	t.n.Store(0)
	t.want.Store(int64(n))
}

func (t *tally) add(n int) {
	want, now := t.want.Load(), t.n.Add(int64(n))
	if now >= want && now-int64(n) < want {
		t.donec <- struct{}{}
	}
}

// await waits for the expected number; it reports false after a timeout.
func (t *tally) await(patience time.Duration) bool {
	select {
	case <-t.donec:
		return true
	case <-time.After(patience):
		return false
	}
}

// gatedBind is a transport whose receivers wait at a gate, and which counts the packets sent.
type gatedBind struct {
	*transport.Conn
	gate *gate
	sent *tally
}

func (b *gatedBind) Open(receive func(messages [][]byte, from conn.Endpoint)) error {
	return b.Conn.Open(func(messages [][]byte, from conn.Endpoint) {
		b.gate.pass()
		receive(messages, from)
	})
}

func (b *gatedBind) Send(lane int, messages [][]byte, to conn.Endpoint) error {
	err := b.Conn.Send(lane, messages, to)
	b.sent.add(len(messages))
	return err
}
