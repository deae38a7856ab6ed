package userstack

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/netem"
)

// hasData reports whether an IPv4 packet carries TCP data.
func hasData(packet []byte) bool {
	ip := header.IPv4(packet)
	tcp := header.TCP(ip.Payload())
	return len(ip.Payload()) > int(tcp.DataOffset())
}

// A window that a peer tells with data that it has sent before is not seen by gVisor, which takes
// nothing from a packet that it has already. The peer is asked all the same.
func TestWindowInRepeatedData(t *testing.T) {
	p := newLongPath(t, netem.Config{Delay: 20 * ms}, netem.Config{Delay: 20 * ms}, Config{})
	near, far := p.connect(0, 80)
	data := randomBytes(4<<20, 7)
	p.wg.Go(func() { near.Write(data); near.(*Conn).CloseWrite() })
	p.run(2 * time.Second) // the window is closed
	p.drop = func(from int, packet []byte) bool { return from == 0 || !hasData(packet) }
	far.Write([]byte("x")) // arrives, but its acknowledgement is lost
	p.run(100 * ms)
	var got []byte
	var done atomic.Bool
	p.wg.Go(func() { got, _ = io.ReadAll(far); done.Store(true) })
	p.run(2 * time.Second) // the window opens, which only the repetitions of x tell
	p.drop = nil
	for limit := p.now + 20*time.Second; !done.Load(); p.run(100 * ms) {
		if p.now > limit {
			t.Fatalf("%d of %d bytes after twenty seconds", len(got), len(data))
		}
	}
	if string(got) != string(data) {
		t.Errorf("%d bytes of %d, or others", len(got), len(data))
	}
}

// A writer that waits until more has been sent learns at once that the peer has reset the
// connection.
func TestResetEndsWrite(t *testing.T) {
	way := bottleneck(40*ms, 5, 1)
	p := newLongPath(t, way, way, Config{})
	near, far := p.connect(0, 80)
	errc := make(chan error, 1)
	p.wg.Go(func() {
		_, err := near.Write(make([]byte, 10<<20))
		errc <- err
	})
	p.run(time.Second)
	far.(*Conn).SetLinger(0)
	far.Close()
	for limit := p.now + 500*ms; len(errc) == 0; p.run(10 * ms) {
		if p.now > limit {
			t.Fatal("the writer has not noticed the reset")
		}
	}
	if err := <-errc; err == nil {
		t.Error("Write succeeded on a connection that was reset")
	}
}

// A flow may send bytes before its Conn has counted them as written. That is not taken for
// something that waits to be sent.
func TestSentBeforeCounted(t *testing.T) {
	p := &notSent{limited: true}
	p.sendBufferSize.Store(64 << 10)
	p.progress(40 << 10)
	if p.add(40 << 10); p.full() || p.unsent() != 0 {
		t.Errorf("%d bytes count as unsent after all were sent", p.unsent())
	}
	if p.add(40 << 10); !p.full() {
		t.Error("40 kB unsent are not too much for half of 64 kB")
	}
	if p.progress(80 << 10); p.full() {
		t.Error("full after everything was sent")
	}
}

// A connection whose queue is closed has a flow that is nowhere, and ends like any other.
func TestFlowOfClosedQueue(t *testing.T) {
	p := newLongPath(t, netem.Config{Delay: ms}, netem.Config{Delay: ms}, Config{})
	near, _ := p.connect(0, 80)
	c, s := near.(*Conn), p.ends[0]
	s.dev.Close()
	c.flow = nil
	c.manage(s)
	c.queue.endFlow(c.flow)
	c.queue.endFlow(c.flow)
}

// A share that was given back does not grow again, and what a connection gives up wakes whoever
// waits for a share.
func TestShareGivenBack(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: minBuffers * 64}
	p.start(t)
	m := &p.a.memory
	s, _ := m.tryAcquire()
	s.mu.Lock()
	if m.grow(s, receiving, minShare) == 0 {
		t.Fatal("a share of an empty budget does not grow")
	}
	_, freec := m.tryTakeAll()
	m.shrink(s, receiving)
	s.mu.Unlock()
	select {
	case <-freec:
	default:
		t.Error("whoever waits for a share is not woken when a connection shrinks")
	}
	m.release(s)
	if n := m.grow(s, receiving, minShare); n != 0 {
		t.Errorf("a share that was given back grows by %d", n)
	}
}

// tryTakeAll takes shares until there is none left.
func (m *memory) tryTakeAll() (shares []*share, freec <-chan struct{}) {
	for {
		s, freec := m.tryAcquire()
		if s == nil {
			return shares, freec
		}
		shares = append(shares, s)
	}
}
