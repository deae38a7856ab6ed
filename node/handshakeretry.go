package node

import (
	"math/rand/v2"
	"time"

	"ginnel/key"
)

// The first handshake initiation to a peer is often lost: the peer, or the relay on the way, may
// learn of this node only after it was sent. WireGuard itself sends the next one after 5 s.
// Discovery pings find out sooner when the peer can answer. They are frequent at first, since most
// peers learn of a new one within milliseconds.
const (
	retryPauseMin = 20 * time.Millisecond  // before the first ping, and for its answer; doubled each time
	retryPauseMax = 250 * time.Millisecond // bounds the pause
	retryTime     = 7 * time.Second        // after this, only WireGuard itself retries

	// retryUnanswered is the time after which another initiation is sent although no ping was
	// answered. It exceeds usual round-trip times, because a new initiation makes a response that
	// is on its way worthless.
	retryUnanswered = 700 * time.Millisecond
)

// retryHandshake sends further initiations until the first handshake with a peer is completed. Its
// pings also make a peer that did not know this node yet answer discovery.
func (d *dialer) retryHandshake(k key.NodePublic) {
	peers := &d.plane.peers
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	begun := time.Now()
	initiated := begun
	for pause := retryPauseMin; time.Since(begun) < retryTime; pause = min(2*pause, retryPauseMax) {
		timer.Reset(pause/2 + rand.N(pause)) // random, so that it differs from that of a peer that does the same
		select {
		case <-timer.C:
		case <-d.life.ctx.Done():
			return
		}
		if !peers.awaitsHandshake(k) {
			return
		}
		answered := d.pingWithin(pause, k)
		if !peers.awaitsHandshake(k) {
			return
		}
		if answered || time.Since(initiated) > retryUnanswered {
			peers.startHandshake(k)
			initiated = time.Now()
		}
	}
}

// pingWithin sends discovery pings and reports whether one was answered in time.
func (d *dialer) pingWithin(limit time.Duration, k key.NodePublic) bool {
	ctx, cancel := d.life.withTimeout(limit)
	defer cancel()
	_, err := d.plane.conn.Ping(ctx, k)
	return err == nil
}
