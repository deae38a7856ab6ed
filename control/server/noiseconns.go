package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"ginnel/internal/key"
	"ginnel/internal/share"
)

const (
	// maxHandshakes bounds the connections that are becoming channels. None takes longer than
	// control.Accept lets it. The next ends the oldest of the address that has most.
	maxHandshakes = 4096
	// maxMachineChannels bounds the channels of one machine. The next ends its oldest: one that lost
	// its network without a word is there until it has missed a ping.
	maxMachineConns = 16
)

// channels are the open connections of machines, and the listener that serves them. Those of
// machines without a node are bounded in number, because any machine key can open one; when there
// are too many, the oldest of the address that has most is closed. newChannels makes it.
type noiseConns struct {
	openc chan *noiseConn // to be served
	stopc chan struct{}   // closed when the server ends
	wg    sync.WaitGroup

	versions versionCheck

	mu           sync.Mutex
	number       int
	unregistered share.Table[netip.Prefix, *noiseConn] // of machines without a node
	handshakes   share.Table[netip.Prefix, *handshake]
	byMachine    map[key.MachinePublic][]*noiseConn // the oldest first
}

// handshake is a connection that is becoming a channel.
type handshake struct {
	remote string
	cancel context.CancelFunc
}

func newNoiseConns() *noiseConns {
	return &noiseConns{
		openc: make(chan *noiseConn), stopc: make(chan struct{}), byMachine: make(map[key.MachinePublic][]*noiseConn),
	}
}

// beginHandshake makes room for a connection that becomes a channel, and returns another that has
// to end for it, if any has. The handshake has to end with the context, and endHandshake has to
// follow.
func (ncs *noiseConns) beginHandshake(ctx context.Context, remote string) (hctx context.Context, h, displaced *handshake) {
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

// reserve notes the channel of a machine without a node, and returns another of the kind that has
// to make room, if any has.
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

// release notes that a channel is not a stranger's any more: its machine has a node, or the channel
// has ended.
func (ncs *noiseConns) release(nc *noiseConn) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	ncs.unregistered.Remove(nc)
}

// open has a channel served.
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

// drop ends a channel that nobody serves.
func (ncs *noiseConns) drop(nc *noiseConn) {
	nc.Conn.Close()
	ncs.forget(nc)
}

// add notes a channel, and returns another of its machine that has to make room.
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

// Close implements net.Listener. The server ends the channels itself.
func (ncs *noiseConns) Close() error { return nil }

// Addr implements net.Listener.
func (ncs *noiseConns) Addr() net.Addr { return new(net.TCPAddr) }

// change counts the channels that are served.
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

// counts returns how many channels are open, and how many of those belong to no node so far.
func (ncs *noiseConns) counts() (open, unregistered int) {
	ncs.mu.Lock()
	defer ncs.mu.Unlock()
	return ncs.number, ncs.unregistered.Len()
}
