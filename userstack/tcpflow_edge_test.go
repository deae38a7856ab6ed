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

// gVisor ignores the window in retransmitted data, because it ignores the whole packet. The flow
// probes the window, so the connection does not stall.
func TestWindowInRetransmittedData(t *testing.T) {
	p := newLongPath(t, netem.Config{Delay: 20 * ms}, netem.Config{Delay: 20 * ms}, Config{})
	near, far := p.connect(0, 80)
	data := randomBytes(4<<20, 7)
	p.wg.Go(func() { near.Write(data); near.(*Conn).CloseWrite() })
	p.run(2 * time.Second) // now the window is closed
	p.drop = func(from int, packet []byte) bool { return from == 0 || !hasData(packet) }
	far.Write([]byte("x")) // is received, but its acknowledgement is lost
	p.run(100 * ms)
	var got []byte
	var done atomic.Bool
	p.wg.Go(func() { got, _ = io.ReadAll(far); done.Store(true) })
	p.run(2 * time.Second) // the window opens, but only retransmissions of x show it
	p.drop = nil
	for limit := p.now + 20*time.Second; !done.Load(); p.run(100 * ms) {
		if p.now > limit {
			t.Fatalf("%d of %d bytes after twenty seconds", len(got), len(data))
		}
	}
	if string(got) != string(data) {
		t.Errorf("got %d bytes, want the %d bytes that were sent", len(got), len(data))
	}
}

// A writer that waits for progress fails at once when the peer resets the connection.
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
			t.Fatal("Write did not return after the reset")
		}
	}
	if err := <-errc; err == nil {
		t.Error("Write succeeded on a connection that was reset")
	}
}

// The flow may send bytes before the Conn has counted them as written. They do not count as unsent
// later.
func TestSentBeforeCounted(t *testing.T) {
	p := &notSent{limited: true}
	p.sendBufferSize.Store(64 << 10)
	p.progress(40 << 10)
	if p.add(40 << 10); p.full() || p.unsent() != 0 {
		t.Errorf("%d bytes count as unsent after all were sent", p.unsent())
	}
	if p.add(40 << 10); !p.full() {
		t.Error("not full with 40 kB unsent and a limit of 32 kB")
	}
	if p.progress(80 << 10); p.full() {
		t.Error("full after everything was sent")
	}
}

// A flow that is created after its queue was closed can be ended like any other.
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

// A released share does not grow. Shrinking a share wakes those that wait for memory.
func TestReleasedShare(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: minBuffers * 64}
	p.start(t)
	m := &p.a.memory
	s, _ := m.tryAcquire()
	s.mu.Lock()
	if m.grow(s, receiving, minShare) == 0 {
		t.Fatal("grow adds nothing although the budget is free")
	}
	_, freec := m.tryAcquireAll()
	m.shrink(s, receiving)
	s.mu.Unlock()
	select {
	case <-freec:
	default:
		t.Error("shrink did not wake those that wait for a share")
	}
	m.release(s)
	if n := m.grow(s, receiving, minShare); n != 0 {
		t.Errorf("grow added %d bytes to a released share", n)
	}
}

// tryAcquireAll acquires shares until there is no memory left.
func (m *memory) tryAcquireAll() (shares []*share, freec <-chan struct{}) {
	for {
		s, freec := m.tryAcquire()
		if s == nil {
			return shares, freec
		}
		shares = append(shares, s)
	}
}
