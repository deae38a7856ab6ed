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

// A peer that the coordination server reports offline is dialled all the same, because the server
// may have lost its connection to the peer while the peer is fine. It is given up sooner than
// others.

// offlinePatience is how long such a peer may be silent.
const offlinePatience = 3 * time.Second

// isOffline reports whether the server has no connection with the peer.
func (p *Peer) isOffline() bool { return p.Online != nil && !*p.Online }

// offlineText says since when the peer is offline.
func (p *Peer) offlineText() string {
	if p.LastSeen.IsZero() {
		return "the peer is offline"
	}
	return fmt.Sprintf("the peer is offline since %s", p.LastSeen.UTC().Format(time.RFC3339))
}

var errSilent = errors.New("the peer is silent")

// dialPeer connects to an address of a peer; nil is this node.
func (d *dialer) dialPeer(ctx context.Context, network string, ap netip.AddrPort, p *Peer) (net.Conn, error) {
	if p == nil {
		return d.plane.stack.DialContext(ctx, network, ap.String())
	}
	if network != "tcp" {
		return d.dialWatched(ctx, network, ap, p)
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	dial := d.plane.rejections.begin(ap, giveUp)
	c, err := d.dialWatched(ctx, network, ap, p)
	return c, d.plane.rejections.end(dial, err)
}

// dialWatched connects to a peer, and gives up if an offline peer is silent.
func (d *dialer) dialWatched(ctx context.Context, network string, ap netip.AddrPort, p *Peer) (net.Conn, error) {
	if !p.isOffline() {
		return d.plane.stack.DialContext(ctx, network, ap.String())
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	before, _ := d.plane.peers.session(p.Key)
	if !d.life.spawn(func() { d.watchOffline(ctx, giveUp, p, before.rx) }) {
		return nil, net.ErrClosed
	}
	c, err := d.plane.stack.DialContext(ctx, network, ap.String())
	if err != nil && context.Cause(ctx) == errSilent && !errors.Is(err, userstack.ErrFull) {
		err = syscall.ETIMEDOUT
	}
	return c, err
}

// watchOffline calls giveUp if a peer is silent for offlinePatience: it answers no discovery ping,
// and WireGuard receives no more than the rx bytes of before. It ends when the peer answers, when
// the map shows it online, or with ctx.
func (d *dialer) watchOffline(ctx context.Context, giveUp context.CancelCauseFunc, p *Peer, rx uint64) {
	for {
		if d.answersWithin(ctx, offlinePatience, p) || ctx.Err() != nil || !d.stillOffline(p) {
			return
		}
		now, _ := d.plane.peers.session(p.Key)
		if now.rx == rx {
			giveUp(errSilent)
			return
		}
		rx = now.rx // these bytes may have been delayed for long, so they prove nothing for later
	}
}

// answersWithin pings a peer by discovery. Without an answer it returns only when the time is up.
func (d *dialer) answersWithin(ctx context.Context, limit time.Duration, p *Peer) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := d.plane.conn.Ping(ctx, p.Key); err == nil {
		return true
	}
	<-ctx.Done() // Ping fails at once for a peer without discovery
	return false
}

// stillOffline reports whether the present map shows the peer offline, or not at all.
func (d *dialer) stillOffline(p *Peer) bool {
	now := d.plane.currentPeer(p.Key)
	return now == nil || now.isOffline()
}
