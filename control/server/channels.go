package server

import (
	"net"
	"net/http"
	"sync"
)

// gate lets callers in until it is closed, and then waits for them to leave. The zero value is open.
type gate struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// enter reports whether the gate is open; then leave has to follow.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

func (g *gate) leave() { g.wg.Done() }

// close returns when nobody is in any more, nor will be.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}

// channels are the open connections of machines, and the listener that serves them. Those that no node has been heard of on
// are bounded in number: any machine key can open one. newChannels makes it.
type channels struct {
	openc chan *channel // to be served
	stopc chan struct{} // closed when the server ends
	wg    sync.WaitGroup

	mu      sync.Mutex
	number  int
	strange int
}

func newChannels() *channels {
	return &channels{openc: make(chan *channel), stopc: make(chan struct{})}
}

// reserve makes room for a channel, or reports that there are too many.
func (cs *channels) reserve(limit int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.strange >= limit {
		return false
	}
	cs.strange++
	return true
}

// release gives a reservation back: nothing has become of it, or a node's channel.
func (cs *channels) release() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.strange--
}

// open has a channel served; it uses up a reservation.
func (cs *channels) open(ch *channel) {
	select {
	case cs.openc <- ch:
	case <-cs.stopc:
		cs.drop(ch)
	}
}

// drop ends a channel that nobody serves.
func (cs *channels) drop(ch *channel) {
	ch.Conn.Close()
	cs.release()
}

// Accept implements net.Listener.
func (cs *channels) Accept() (net.Conn, error) {
	select {
	case ch := <-cs.openc:
		select {
		case <-cs.stopc:
			cs.drop(ch)
			return nil, net.ErrClosed
		default:
			return ch, nil
		}
	case <-cs.stopc:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The server ends the channels itself.
func (cs *channels) Close() error { return nil }

// Addr implements net.Listener.
func (cs *channels) Addr() net.Addr { return new(net.TCPAddr) }

// change counts the channels that are served.
func (cs *channels) change(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		cs.wg.Add(1)
		cs.count(1)
	case http.StateClosed:
		if ch, ok := conn.(*channel); ok && !ch.known.Load() {
			cs.release()
		}
		cs.count(-1)
		cs.wg.Done()
	}
}

func (cs *channels) count(n int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.number += n
}

// counts returns how many channels are open, and how many of those belong to no node so far.
func (cs *channels) counts() (open, strange int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.number, cs.strange
}
