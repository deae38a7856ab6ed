package userstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// firstShare is what a direction of a connection begins with if there is enough: what a switch
	// needs.
	firstShare = 512 << 10

	// minShare is what it gets at the least: some segments, enough to get on.
	minShare = 8 << 10

	// minBuffers is room for a few connections.
	minBuffers = 1 << 20
)

// ErrFull is the error of a dial for whose connection there is no room.
var ErrFull = errors.New("the memory given to connections is used up")

// noMemoryError is that of a dial that found no room in time, for the reason that its context gives.
type noMemoryError struct{ cause error }

func (e *noMemoryError) Error() string   { return ErrFull.Error() + ": " + e.cause.Error() }
func (e *noMemoryError) Unwrap() []error { return []error{ErrFull, e.cause} }

// Timeout makes package net's errors see what it is.
func (e *noMemoryError) Timeout() bool { return errors.Is(e.cause, syscall.ETIMEDOUT) }

// memory divides a budget among TCP connections, for each direction by itself.
//
// A connection begins with a share that becomes smaller as there are more of them; half of the
// budget is kept for that. The other half is for connections whose path needs more: their shares
// grow with the bandwidth-delay product, and fall back when they have been idle. When not even a
// small share is left, further connections wait until others end. The zero value knows no bound.
//
// A receive window that was offered cannot be taken back: the peer may already have sent what it
// allows. So the share of an idle connection can be given to another while the peer may still send
// as much. What then comes is taken as long as there is room, and is otherwise sent again by the
// peer.
type memory struct {
	gv     *stack.Stack
	budget int // bytes in each direction; 0: none

	mu      sync.Mutex
	granted [directions]int // bytes
	shares  int             // connections
	freec   chan struct{}   // closed and replaced when a connection has ended
}

// direction is one of a connection's two.
type direction int

const (
	receiving direction = iota
	sending
	directions
)

// share is what a connection may buffer in each direction, in bytes.
type share struct {
	first int // what it began with, and has at the least

	mu   sync.Mutex // held while a size changes, until gVisor has it
	size [directions]int
}

func (m *memory) init(gv *stack.Stack, buffers int) {
	m.gv, m.budget, m.freec = gv, buffers/2, make(chan struct{})
	// The window scale follows from the largest buffer, so that the window can become as large as the
	// budget ever allows.
	largest := 2 * m.largest()
	o := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: min(tcpBufferDefault, largest), Max: largest}
	if err := m.gv.SetTransportProtocolOption(tcp.ProtocolNumber, &o); err != nil {
		panic(fmt.Sprintf("userstack: internal error: setting TCP option %T: %s", o, err))
	}
}

// largest is the most that a connection may ever buffer in one direction.
func (m *memory) largest() int {
	if m.budget == 0 {
		return tcpBufferMax
	}
	return min(max(m.budget/4, minShare), tcpBufferMax)
}

// acquire waits for a share, which give takes back.
func (m *memory) acquire(ctx context.Context, closec <-chan struct{}) (*share, error) {
	for {
		s, freec := m.tryAcquire()
		if s != nil {
			return s, nil
		}
		select {
		case <-freec:
		case <-ctx.Done():
			return nil, &noMemoryError{dialError(context.Cause(ctx))}
		case <-closec:
			return nil, net.ErrClosed
		}
	}
}

// tryAcquire returns a share, or what is closed when it is worth asking again.
func (m *memory) tryAcquire() (*share, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.firstSizeLocked()
	for d := range m.granted {
		if m.budget > 0 && m.granted[d]+n > m.budget {
			return nil, m.freec
		}
	}
	s := &share{first: n}
	for d := range m.granted {
		m.granted[d] += n
		s.size[d] = n
	}
	m.shares++
	return s, nil
}

// firstSizeLocked is what the next connection begins with: a part of what is free that becomes smaller
// as there are more.
func (m *memory) firstSizeLocked() int {
	if m.budget == 0 {
		return firstShare
	}
	free := m.budget/2 - max(m.granted[receiving], m.granted[sending])
	return max(minShare, min(free/(2*(m.shares+1)), firstShare))
}

// grow adds up to n bytes to what a connection may buffer in a direction, and returns how many. The
// caller holds s.mu.
func (m *memory) grow(s *share, d direction, n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.budget > 0 {
		n = min(n, max(m.budget/2-m.granted[d], 0)/2)
	}
	if n = min(n, m.largest()-s.size[d]); n <= 0 || s.size[d] == 0 { // 0: give has taken the share back
		return 0
	}
	m.granted[d] += n
	s.size[d] += n
	return n
}

// shrink takes back what a connection has got by grow, and reports whether there was any. The
// caller holds s.mu.
func (m *memory) shrink(s *share, d direction) bool {
	n := s.size[d] - s.first
	if n <= 0 {
		return false
	}
	s.size[d] = s.first
	m.mu.Lock()
	defer m.mu.Unlock()
	m.granted[d] -= n
	m.wakeWaitersLocked()
	return true
}

// wakeWaitersLocked wakes whoever waits for a share.
func (m *memory) wakeWaitersLocked() {
	close(m.freec)
	m.freec = make(chan struct{})
}

// release takes a share back.
func (m *memory) release(s *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := range m.granted {
		m.granted[d] -= s.size[d]
		s.size[d] = 0
	}
	m.shares--
	m.wakeWaitersLocked()
}

const (
	orphanFirstPoll = 10 * time.Millisecond // before it is first looked at; twice that each time
	orphanMaxPoll   = time.Second           // and not more than that
	orphanLife      = 2 * time.Minute
)

// orphan is a connection that is closed and has yet to send what was written to it.
type orphan struct {
	c     *Conn
	since time.Time
	pause time.Duration
}

// releaseWhenSent takes back the share of a connection that is closed, once it holds nothing, or after
// orphanLife: a peer that keeps its window at zero would otherwise hold the share for ever.
func (m *memory) releaseWhenSent(c *Conn) {
	o := &orphan{c: c, since: time.Now(), pause: orphanFirstPoll}
	if o.isDone() {
		m.release(c.share)
		return
	}
	time.AfterFunc(o.pause, o.poll)
}

// isDone reports whether all was sent and acknowledged, the end of the stream included, or will never
// be.
func (o *orphan) isDone() bool {
	switch tcp.EndpointState(o.c.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return o.c.stackClosed.Load()
	}
	return true
}

func (o *orphan) poll() {
	late := time.Since(o.since) > orphanLife
	if late {
		o.c.ep.Abort()
	}
	if late || o.isDone() {
		o.c.memory.release(o.c.share)
		return
	}
	o.pause = min(2*o.pause, orphanMaxPoll)
	time.AfterFunc(o.pause, o.poll)
}

// apply sizes the buffers of ep, which has not told anybody of more yet.
func (s *share) apply(ep tcpip.Endpoint) {
	setReceiveBuffer(ep, s.size[receiving])
	setSendBuffer(ep, s.size[sending])
}

// setReceiveBuffer has ep offer its peer up to n bytes. gVisor offers half of the buffer, and keeps
// the rest for what packets take besides their payload. The change is told with the next
// acknowledgement.
func setReceiveBuffer(ep tcpip.Endpoint, n int) {
	const notify = true
	ep.SocketOptions().SetReceiveBufferSize(int64(2*n), !notify)
}

// setSendBuffer has ep keep up to n bytes until they are acknowledged. Told so, gVisor does not
// change the size itself, as it would with the congestion window.
func setSendBuffer(ep tcpip.Endpoint, n int) {
	const notify = true
	ep.SocketOptions().SetSendBufferSize(int64(n), notify)
}

// listenSize is the size in bytes of the receive buffers with which a listener's connections are
// made, before they have a share; 0 means the usual.
func (m *memory) listenSize() int {
	if m.budget == 0 {
		return 0
	}
	return 2 * minShare // which no share makes smaller
}
