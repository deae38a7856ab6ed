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

// gate lets callers in until it is closed, and then waits for them to leave. The zero value is
// open.
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

const (
	// maxHandshakes bounds the connections that are becoming channels. None takes longer than
	// control.Accept lets it. The next ends the oldest of the address that has most.
	maxHandshakes = 4096
	// maxMachineChannels bounds the channels of one machine. The next ends its oldest: one that lost
	// its network without a word is there until it has missed a ping.
	maxMachineChannels = 16
)

// channels are the open connections of machines, and the listener that serves them. Those of
// machines without a node are bounded in number, because any machine key can open one; when there
// are too many, the oldest of the address that has most is closed. newChannels makes it.
type channels struct {
	openc chan *channel // to be served
	stopc chan struct{} // closed when the server ends
	wg    sync.WaitGroup

	versions versionCheck

	mu         sync.Mutex
	number     int
	strange    share.Table[netip.Prefix, *channel] // of machines without a node
	handshakes share.Table[netip.Prefix, *handshake]
	byMachine  map[key.MachinePublic][]*channel // the oldest first
}

// handshake is a connection that is becoming a channel.
type handshake struct {
	remote string
	cancel context.CancelFunc
}

func newChannels() *channels {
	return &channels{
		openc: make(chan *channel), stopc: make(chan struct{}), byMachine: make(map[key.MachinePublic][]*channel),
	}
}

// beginHandshake makes room for a connection that becomes a channel, and returns another that has
// to end for it, if any has. The handshake has to end with the context, and endHandshake has to
// follow.
func (cs *channels) beginHandshake(ctx context.Context, remote string) (hctx context.Context, h, displaced *handshake) {
	h = &handshake{remote: remote}
	hctx, h.cancel = context.WithCancel(ctx)
	source := share.SourceOfHost(remote)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.handshakes.Len() >= maxHandshakes {
		_, displaced, _ = cs.handshakes.Displace(source)
		cs.handshakes.Remove(displaced)
	}
	cs.handshakes.Add(source, h)
	return hctx, h, displaced
}

func (cs *channels) endHandshake(h *handshake) {
	h.cancel()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.handshakes.Remove(h)
}

// reserve notes the channel of a machine without a node, and returns another of the kind that has
// to make room, if any has.
func (cs *channels) reserve(ch *channel, limit int) (displaced *channel) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.strange.Len() >= limit {
		_, displaced, _ = cs.strange.Displace(ch.source)
		cs.strange.Remove(displaced)
	}
	cs.strange.Add(ch.source, ch)
	return displaced
}

// release notes that a channel is not a stranger's any more: its machine has a node, or the channel
// has ended.
func (cs *channels) release(ch *channel) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.strange.Remove(ch)
}

// open has a channel served.
func (cs *channels) open(ch *channel) {
	if oldest := cs.add(ch); oldest != nil {
		oldest.Conn.Close()
	}
	select {
	case cs.openc <- ch:
	case <-cs.stopc:
		cs.drop(ch)
	}
}

// drop ends a channel that nobody serves.
func (cs *channels) drop(ch *channel) {
	ch.Conn.Close()
	cs.forget(ch)
}

// add notes a channel, and returns another of its machine that has to make room.
func (cs *channels) add(ch *channel) (oldest *channel) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	own := cs.byMachine[ch.machine()]
	if len(own) >= maxMachineChannels {
		oldest, own = own[0], slices.Clone(own[1:])
	}
	cs.byMachine[ch.machine()] = append(own, ch)
	return oldest
}

// forget undoes add and reserve.
func (cs *channels) forget(ch *channel) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	own := cs.byMachine[ch.machine()]
	if i := slices.Index(own, ch); i >= 0 {
		own = slices.Delete(own, i, i+1)
	}
	if cs.byMachine[ch.machine()] = own; len(own) == 0 {
		delete(cs.byMachine, ch.machine())
	}
	cs.strange.Remove(ch)
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
		if ch, ok := conn.(*channel); ok {
			cs.forget(ch)
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
	return cs.number, cs.strange.Len()
}
