package node

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/share"
)

// What a router carries is bounded, because each pair of addresses takes a socket of the host.
// Peers share the room: one that has more than others gives way to them.

const (
	routedFlowsMax = 1024
	routedConnsMax = 4096
)

// routedFlows are the pairs of UDP addresses that a router carries datagrams between.
type routedFlows struct {
	max  int
	mu   sync.Mutex
	held share.Table[netip.Addr, *routedFlow] // by peer
}

// add notes a flow of a peer. If there is no room, it returns another that has to end: the idlest
// of the peer that has most.
func (fs *routedFlows) add(peer netip.Addr, f *routedFlow) (evicted *routedFlow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.held.Len() >= fs.max {
		evicted, _ = share.Idlest(&fs.held, func(f *routedFlow) int64 { return f.heard.Load() })
		fs.held.Remove(evicted)
	}
	fs.held.Add(peer, f)
	return evicted
}

func (fs *routedFlows) remove(f *routedFlow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.held.Remove(f)
}

// routedConns are the TCP connections that a router carries.
type routedConns struct {
	max  int
	mu   sync.Mutex
	held share.Table[netip.Addr, *routedConn] // by peer
}

// add notes a connection of a peer. If there is no room, it returns the oldest of the peer that has
// most, which has to end. It reports false if no other peer has more than this one: a connection in
// use is worth more than a new one.
func (cs *routedConns) add(peer netip.Addr, c *routedConn) (evicted *routedConn, ok bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.held.Len() >= cs.max {
		if _, evicted, ok = cs.held.Claim(peer); !ok {
			return nil, false
		}
		cs.held.Remove(evicted)
	}
	cs.held.Add(peer, c)
	return evicted, true
}

func (cs *routedConns) remove(c *routedConn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.held.Remove(c)
}

// routedConn is a connection to what is behind us, which can be ended from its dial on.
type routedConn struct {
	mu    sync.Mutex
	far   net.Conn // nil while it is dialled
	ended bool
}

// opened notes what the dial has led to. It reports false if the connection has been ended
// meanwhile.
func (c *routedConn) opened(far net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.far = far
	}
	return !c.ended
}

// end closes the far side, by which what is carried ends. It reports false if it was ended before.
func (c *routedConn) end() bool {
	c.mu.Lock()
	far, first := c.far, !c.ended
	c.ended = true
	c.mu.Unlock()
	if first && far != nil {
		far.Close()
	}
	return first
}

// routedFlow is a pair of UDP addresses, one behind us.
type routedFlow struct {
	routedConn
	near  net.Conn
	heard atomic.Int64 // Unix nanoseconds of the last datagram, in either direction
	endc  chan struct{}
	wg    sync.WaitGroup
}

func newRoutedFlow(near net.Conn) *routedFlow {
	f := &routedFlow{near: near, endc: make(chan struct{})}
	f.heard.Store(time.Now().UnixNano())
	return f
}

// end closes both sides.
func (f *routedFlow) end() {
	if f.routedConn.end() {
		close(f.endc)
		f.near.Close()
	}
}
