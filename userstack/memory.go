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
	// minGrant is what a direction of a connection gets at the least: some segments, enough to get on.
	minGrant = 8 << 10

	// minBuffers is room for a few connections.
	minBuffers = 1 << 20
)

// ErrFull is the error of a dial for whose connection there is no room.
var ErrFull = errors.New("the memory given to connections is used up")

// waitedError is that of a dial that found no room in time, for the reason that its context gives.
type waitedError struct{ cause error }

func (e *waitedError) Error() string   { return ErrFull.Error() + ": " + e.cause.Error() }
func (e *waitedError) Unwrap() []error { return []error{ErrFull, e.cause} }

// Timeout makes package net's errors see what it is.
func (e *waitedError) Timeout() bool { return errors.Is(e.cause, syscall.ETIMEDOUT) }

// memory grants each TCP connection its buffers from a budget. A grant is never revised: a peer may already have sent what
// the window allowed, and what then finds no room is lost without a word. So grants become smaller as there are more of
// them, and their sum never passes the budget. When not even a small one is left, further connections wait until some end.
//
// A grant is where receive buffers begin. gVisor lets them grow with what the path needs, up to what another connection
// would be granted now: that is a part of what is free, divided by the number of connections, so that all growth at a time
// adds a quarter of the budget at most. The zero value knows no bound.
type memory struct {
	gv     *stack.Stack
	budget int // bytes in each direction; 0: none

	mu      sync.Mutex    // held while gVisor is told how far buffers may grow, so that the last word is right
	granted int           // bytes in each direction
	grants  int           // their number
	freec   chan struct{} // closed and replaced when something is given back
}

// grant is what a connection may buffer in each direction, in bytes.
type grant int

func (m *memory) init(gv *stack.Stack, buffers int) {
	m.gv, m.budget, m.freec = gv, buffers/2, make(chan struct{})
	m.limitGrowthLocked() // nobody else knows m yet
}

// take waits for a grant, which give takes back.
func (m *memory) take(ctx context.Context, closec <-chan struct{}) (grant, error) {
	for {
		g, freec := m.tryTake()
		if g > 0 {
			return g, nil
		}
		select {
		case <-freec:
		case <-ctx.Done():
			return 0, &waitedError{dialError(context.Cause(ctx))}
		case <-closec:
			return 0, net.ErrClosed
		}
	}
}

// tryTake returns a grant, or what is closed when it is worth asking again.
func (m *memory) tryTake() (grant, <-chan struct{}) {
	if m.budget == 0 {
		return tcpBufferMax, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.nextLocked()
	if m.granted+g > m.budget {
		return 0, m.freec
	}
	m.granted += g
	m.grants++
	m.limitGrowthLocked()
	return grant(g), nil
}

// nextLocked is what the next connection is granted. Half of the budget is kept for many small grants. Of the other, half
// goes to the first, which is often the only one, and a smaller part of what is left to each that follows.
func (m *memory) nextLocked() int {
	return max(minGrant, min((m.budget/2-m.granted)/(2*(m.grants+1)), tcpBufferMax))
}

// limitGrowthLocked bounds how far the receive buffers of all connections grow. Those for sending are left alone: gVisor would
// shrink them, and forget about writers that wait for room.
func (m *memory) limitGrowthLocked() {
	limit := tcpBufferMax
	if m.budget > 0 {
		limit = min(2*m.nextLocked(), tcpBufferMax)
	}
	o := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: min(tcpBufferDefault, limit), Max: limit}
	if err := m.gv.SetTransportProtocolOption(tcp.ProtocolNumber, &o); err != nil {
		panic(fmt.Sprintf("userstack: internal error: setting TCP option %T: %s", o, err))
	}
}

// give takes a grant back.
func (m *memory) give(g grant) {
	if m.budget == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.granted -= int(g)
	m.grants--
	m.limitGrowthLocked()
	close(m.freec)
	m.freec = make(chan struct{})
}

const (
	orphanLook = 10 * time.Millisecond // before it is first looked at; twice that each time
	orphanLast = time.Second           // and not more than that
	orphanLife = 2 * time.Minute
)

// orphan is a connection that is closed and has yet to send what was written to it.
type orphan struct {
	c     *Conn
	since time.Time
	pause time.Duration
}

// part takes back the grant of a connection that is closed, once it holds nothing. A peer that takes nothing, and says so
// again and again, would have it hold that for ever.
func (m *memory) part(c *Conn) {
	if m.budget == 0 {
		return
	}
	o := &orphan{c: c, since: time.Now(), pause: orphanLook}
	if o.gone() {
		m.give(c.grant)
		return
	}
	time.AfterFunc(o.pause, o.look)
}

// gone reports whether all was sent and acknowledged, the end of the stream included, or will never be.
func (o *orphan) gone() bool {
	switch tcp.EndpointState(o.c.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return o.c.ended.Load()
	}
	return true
}

func (o *orphan) look() {
	late := time.Since(o.since) > orphanLife
	if late {
		o.c.ep.Abort()
	}
	if late || o.gone() {
		o.c.memory.give(o.c.grant)
		return
	}
	o.pause = min(2*o.pause, orphanLast)
	time.AfterFunc(o.pause, o.look)
}

// apply sizes the buffers of ep, which has not told anybody of more yet. gVisor offers a peer half of a receive buffer, and
// keeps the rest for what packets take besides their payload, so that one of twice the grant holds the grant.
func (g grant) apply(ep tcpip.Endpoint) {
	o := ep.SocketOptions()
	const notice = true // to the endpoint, which then keeps to the size
	o.SetReceiveBufferSize(int64(min(2*g, tcpBufferDefault)), !notice)
	o.SetSendBufferSize(int64(min(g, tcpBufferDefault)), !notice)
	if g < tcpBufferMax {
		o.SetSendBufferSize(int64(g), notice)
	}
}

// listenSize is the size in bytes of the receive buffers with which a listener's connections are made, before they have a
// grant; 0 means the usual.
func (m *memory) listenSize() int {
	if m.budget == 0 {
		return 0
	}
	return 2 * minGrant // which no grant makes smaller
}
