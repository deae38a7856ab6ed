package userstack

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

const (
	// minGrant is what a direction of a connection gets at the least: some segments, enough to get on.
	minGrant = 16 << 10

	// minBuffers is room for a few connections.
	minBuffers = 1 << 20
)

// errFull says that there is no room for a connection.
var errFull = errors.New("the memory given to connections is used up")

// waitedError is that of a dial that found no room in time, for the reason that its context gives.
type waitedError struct{ cause error }

func (e *waitedError) Error() string   { return errFull.Error() + ": " + e.cause.Error() }
func (e *waitedError) Unwrap() []error { return []error{errFull, e.cause} }

// Timeout makes package net's errors see what it is.
func (e *waitedError) Timeout() bool { return errors.Is(e.cause, syscall.ETIMEDOUT) }

// memory grants each TCP connection its buffers from a budget. A grant is never revised: a peer may already have sent what
// the window allowed, and what then finds no room is lost without a word. So grants become smaller as there are more of
// them, and the sum never passes the budget. When not even a small one is left, further connections wait until some end,
// or are refused. The zero value knows no bound.
type memory struct {
	budget int // bytes in each direction; 0: none

	mu      sync.Mutex
	granted int           // bytes in each direction
	grants  int           // their number
	freec   chan struct{} // closed and replaced when something is given back
}

// grant is what a connection may buffer in each direction, in bytes.
type grant int

func (m *memory) init(buffers int) {
	m.budget, m.freec = buffers/2, make(chan struct{})
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
			return 0, &waitedError{dialError(ctx.Err())}
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
	// A quarter for the first; a share of what is left for each that follows, at which the last of 64 has got a
	// thousandth of the whole.
	g := max(minGrant, min((m.budget-m.granted)/(4*(m.grants+1)), tcpBufferMax))
	if m.granted+g > m.budget {
		return 0, m.freec
	}
	m.granted += g
	m.grants++
	return grant(g), nil
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
	close(m.freec)
	m.freec = make(chan struct{})
}

// apply sizes the buffers of ep, which has not told anybody of more yet. With the largest grant, gVisor finds out how much of
// it the path needs; sizes that are set with notice it leaves alone.
func (g grant) apply(ep tcpip.Endpoint) {
	size, notice := int64(min(g, tcpBufferDefault)), g < tcpBufferMax
	ep.SocketOptions().SetReceiveBufferSize(size, notice)
	ep.SocketOptions().SetSendBufferSize(size, notice)
}

// listenSize is the size in bytes of the receive buffers with which a listener's connections are made, before they have a
// grant; 0 means the usual.
func (m *memory) listenSize() int {
	if m.budget == 0 {
		return 0
	}
	return 2 * minGrant // half of which is the window that the peer is told
}
