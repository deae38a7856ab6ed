package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"ginnel/internal/share"
	"ginnel/key"
)

const (
	// maxHandshakes limits the concurrent Noise handshakes; control.Accept limits the time of each.
	// Beyond the limit, a new handshake ends the oldest one of the source address that has the
	// most.
	maxHandshakes = 4096
	// maxMachineConns limits the connections of one machine. Beyond the limit, a new connection
	// closes the oldest. A machine that lost its network leaves connections behind until they miss
	// a ping.
	maxMachineConns = 16
)

// noiseConns are the open Noise connections, and the listener that hands them to the HTTP server.
// Any machine key can open a connection, so the number of connections of machines without a node is
// limited. Beyond the limit, the oldest of the source address that has the most is closed.
// newNoiseConns makes it.
type noiseConns struct {
	openc chan *noiseConn // to be served
	stopc chan struct{}   // closed by Server.Close
	wg    sync.WaitGroup

	versions versionCheck

	mu           sync.Mutex
	number       int
	unregistered share.Table[netip.Prefix, *noiseConn] // machines without a node
	handshakes   share.Table[netip.Prefix, *handshake]
	byMachine    map[key.MachinePublic][]*noiseConn // oldest first
}

// handshake is an HTTP connection that is becoming a Noise connection.
type handshake struct {
	remote string
	cancel context.CancelFunc
}

func newNoiseConns() *noiseConns {
	return &noiseConns{
		openc: make(chan *noiseConn), stopc: make(chan struct{}), byMachine: make(map[key.MachinePublic][]*noiseConn),
	}
}

// beginHandshake counts a handshake, and returns another one that must end to make room, if any.
// The handshake must end when hctx does. The caller must call endHandshake afterwards.
func (ncs *noiseConns) beginHandshake(
	ctx context.Context, remote string,
) (hctx context.Context, h, displaced *handshake) {
	h = &handshake{remote: remote}
	hctx, h.cancel = context.WithCancel(ctx)
	source := share.SourceOfHost(remote)
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	if ncs.handshakes.Len() >= maxHandshakes {
		_, displaced, _ = ncs.handshakes.Displace(source)
		ncs.handshakes.Remove(displaced)
	}
	ncs.handshakes.Add(source, h)
	return hctx, h, displaced
}

func (ncs *noiseConns) endHandshake(h *handshake) {
	h.cancel()
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	ncs.handshakes.Remove(h)
}

// reserve records the connection of a machine without a node, and returns another such connection
// that must be closed to make room, if any.
func (ncs *noiseConns) reserve(nc *noiseConn, limit int) (displaced *noiseConn) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	if ncs.unregistered.Len() >= limit {
		_, displaced, _ = ncs.unregistered.Displace(nc.source)
		ncs.unregistered.Remove(displaced)
	}
	ncs.unregistered.Add(nc.source, nc)
	return displaced
}

// release stops counting a connection as one of a machine without a node, because the machine has a
// node now or the connection has ended.
func (ncs *noiseConns) release(nc *noiseConn) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	ncs.unregistered.Remove(nc)
}

// open hands a connection to the HTTP server.
func (ncs *noiseConns) open(nc *noiseConn) {
	if oldest := ncs.add(nc); oldest != nil {
		oldest.Conn.Close()
	}
	select {
	case ncs.openc <- nc:
	case <-ncs.stopc:
		ncs.drop(nc)
	}
}

// drop closes a connection that is not served.
func (ncs *noiseConns) drop(nc *noiseConn) {
	nc.Conn.Close()
	ncs.forget(nc)
}

// add records a connection, and returns the oldest of its machine if that must be closed to make
// room.
func (ncs *noiseConns) add(nc *noiseConn) (oldest *noiseConn) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	own := ncs.byMachine[nc.machine()]
	if len(own) >= maxMachineConns {
		oldest, own = own[0], slices.Clone(own[1:])
	}
	ncs.byMachine[nc.machine()] = append(own, nc)
	return oldest
}

// forget undoes add and reserve.
func (ncs *noiseConns) forget(nc *noiseConn) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	own := ncs.byMachine[nc.machine()]
	if i := slices.Index(own, nc); i >= 0 {
		own = slices.Delete(own, i, i+1)
	}
	if ncs.byMachine[nc.machine()] = own; len(own) == 0 {
		delete(ncs.byMachine, nc.machine())
	}
	ncs.unregistered.Remove(nc)
}

// Accept implements net.Listener.
func (ncs *noiseConns) Accept() (net.Conn, error) {
	select {
	case nc := <-ncs.openc:
		select {
		case <-ncs.stopc:
			ncs.drop(nc)
			return nil, net.ErrClosed
		default:
			return nc, nil
		}
	case <-ncs.stopc:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It does nothing, because the HTTP server closes its connections.
func (ncs *noiseConns) Close() error { return nil }

// Addr implements net.Listener.
func (ncs *noiseConns) Addr() net.Addr { return new(net.TCPAddr) }

// change is the ConnState hook of the HTTP server. It counts the connections that are served.
func (ncs *noiseConns) change(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		ncs.wg.Add(1)
		ncs.count(1)
	case http.StateClosed:
		if nc, ok := conn.(*noiseConn); ok {
			ncs.forget(nc)
		}
		ncs.count(-1)
		ncs.wg.Done()
	}
}

func (ncs *noiseConns) count(n int) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	ncs.number += n
}

// counts returns the number of open connections, and how many of them belong to machines without a
// node.
func (ncs *noiseConns) counts() (open, unregistered int) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	return ncs.number, ncs.unregistered.Len()
}
