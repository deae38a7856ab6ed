package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"ginnel/userstack"
)

// A peer that the server sees offline may be there all the same: the server may be the one that is
// cut off. So it is tried, but not for as long as others are.

// offlinePatience is for a sign of life of such a peer.
const offlinePatience = 3 * time.Second

// isOffline reports whether the server has no connection with the peer.
func (p *Peer) isOffline() bool { return p.Online != nil && !*p.Online }

// offlineText says since when.
func (p *Peer) offlineText() string {
	if p.LastSeen.IsZero() {
		return "the peer is offline"
	}
	return fmt.Sprintf("the peer is offline since %s", p.LastSeen.UTC().Format(time.RFC3339))
}

var errNoSign = errors.New("no sign of life")

// dialPeer connects to an address of a peer; nil is this node.
func (n *Node) dialPeer(ctx context.Context, network string, ap netip.AddrPort, p *Peer) (net.Conn, error) {
	if p == nil {
		return n.stack.DialContext(ctx, network, ap.String())
	}
	if network != "tcp" {
		return n.dialSigned(ctx, network, ap, p)
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	d := n.rejections.begin(ap, giveUp)
	c, err := n.dialSigned(ctx, network, ap, p)
	return c, n.rejections.end(d, err)
}

// dialSigned connects to a peer. One that the server sees offline has to give a sign of life.
func (n *Node) dialSigned(ctx context.Context, network string, ap netip.AddrPort, p *Peer) (net.Conn, error) {
	if !p.isOffline() {
		return n.stack.DialContext(ctx, network, ap.String())
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	before, _ := n.wg0.dev.PeerState(p.Key)
	if !n.spawn(func() { n.awaitSign(ctx, giveUp, p, before.Rx) }) {
		return nil, net.ErrClosed
	}
	c, err := n.stack.DialContext(ctx, network, ap.String())
	if err != nil && context.Cause(ctx) == errNoSign && !errors.Is(err, userstack.ErrFull) {
		err = syscall.ETIMEDOUT
	}
	return c, err
}

// awaitSign gives up if for offlinePatience nothing comes from the peer: no answer of discovery,
// and none of WireGuard, from which heard bytes had come before.
func (n *Node) awaitSign(ctx context.Context, giveUp context.CancelCauseFunc, p *Peer, heard uint64) {
	for {
		if n.signWithin(ctx, offlinePatience, p) || ctx.Err() != nil || !n.stillOffline(p) {
			return
		}
		now, _ := n.wg0.dev.PeerState(p.Key)
		if now.Rx == heard {
			giveUp(errNoSign)
			return
		}
		heard = now.Rx // which may have been on its way for long
	}
}

// signWithin waits for an answer of discovery, for the whole time if there is none.
func (n *Node) signWithin(ctx context.Context, limit time.Duration, p *Peer) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := n.conn.Ping(ctx, p.Key); err == nil {
		return true
	}
	<-ctx.Done() // a peer without discovery is unknown there at once
	return false
}

// stillOffline looks at the map of now.
func (n *Node) stillOffline(p *Peer) bool {
	m := n.netmap.Load()
	for i := range m.Peers {
		if m.Peers[i].Key == p.Key {
			return m.Peers[i].isOffline()
		}
	}
	return true
}
