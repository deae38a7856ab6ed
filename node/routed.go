package node

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/share"
)

// A router carries a bounded number of flows and connections, because each takes a socket of the
// host. When there are as many, the peer that has most of them gives way.
const (
	routedFlowsMax = 1024
	routedConnsMax = 4096
)

// routedFlows are the UDP flows of a router.
type routedFlows struct {
	max int

	mu   sync.Mutex
	held share.Table[netip.Addr, *routedFlow] // by peer
}

// add lists a flow of a peer. If there are max flows already, it returns another one, which the
// caller has to end: the idlest of the peer that has most.
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
	max int

	mu   sync.Mutex
	held share.Table[netip.Addr, *routedConn] // by peer
}

// add lists a connection of a peer. If there are max connections already, it returns the oldest of
// the peer that has most, which the caller has to end. It reports false, and lists nothing, if no
// other peer has more than this one: a connection in use is worth more than a new one.
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

// routedConn is the host's side of a connection or flow. It can be ended as soon as it is dialled.
type routedConn struct {
	mu    sync.Mutex
	far   net.Conn // nil during the dial
	ended bool
}

// opened sets the conn that the dial has returned. It reports false if the connection was ended
// during the dial.
func (c *routedConn) opened(far net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.far = far
	}
	return !c.ended
}

// end closes the conn on the host's network. It reports false if the connection was ended before.
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

// routedFlow is a UDP flow between an address of a peer and one on the host's network.
type routedFlow struct {
	routedConn
	near  net.Conn     // the peer's side
	heard atomic.Int64 // Unix nanoseconds of the last datagram, in either direction
	wg    sync.WaitGroup
}

func newRoutedFlow(near net.Conn) *routedFlow {
	f := &routedFlow{near: near}
	f.heard.Store(time.Now().UnixNano())
	return f
}

// end closes both sides.
func (f *routedFlow) end() {
	if f.routedConn.end() {
		f.near.Close()
	}
}
