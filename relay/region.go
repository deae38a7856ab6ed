package relay

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 5 * time.Second
	// maxRestartAdvice bounds each time that a server may ask for with a Restarting frame (3.13).
	maxRestartAdvice = 30 * time.Second
	// restartRetry is the average time between two attempts while a server restarts.
	restartRetry = 250 * time.Millisecond

	// If no bytes have come from a relay for silenceLimit when something is sent to it, a ping
	// follows. The connection is closed unless bytes come within pingLimit. Two such pings are at
	// least silencePings apart.
	silenceLimit = 2 * time.Second
	silencePings = 10 * time.Second
)

var (
	errIdle         = errors.New("relay: region is idle")
	errAddressGone  = errors.New("relay: the connection's local address is gone")
	errNoPong       = errors.New("relay: no answer to a ping")
	errRegionClosed = errors.New("relay: region closed by the pool")
)

// RegionState tells what a pool does about a region.
type RegionState uint8

const (
	RegionIdle       RegionState = iota // not in use
	RegionConnecting                    // connecting, or waiting for the answer to the login
	RegionConnected                     // in use
	RegionWaiting                       // between two attempts
)

// String returns "idle", "connecting", "connected" or "waiting".
func (s RegionState) String() string {
	return [...]string{"idle", "connecting", "connected", "waiting"}[s]
}

// RegionStatus is what a pool knows about a region.
type RegionStatus struct {
	Region     int
	State      RegionState
	Transport  Transport
	RemoteAddr netip.AddrPort // of the relay, or of the proxy before it; zero without a connection
	Err        error          // the latest failure; nil once connected, and after a close for idleness
	Health     string         // what the relay complains about; empty if nothing
	LastHeard  time.Time      // when bytes came from the relay last; zero if never

	RxPackets, RxBytes uint64 // received; bytes of packets
	TxPackets, TxBytes uint64 // sent; bytes of packets
	Drops              uint64 // packets that were not sent
}

// region is one region of a pool. While it is in use its goroutine connects, reads, and connects
// again. Senders write through out, which queues packets while there is no connection.
type region struct {
	pool  *Pool
	id    int
	entry *Region // from the map
	out   *sender

	connected atomic.Bool
	lastSend  atomic.Int64 // Unix nanoseconds
	lastPing  atomic.Int64 // when a silent relay was last pinged, Unix nanoseconds

	batch [][]byte      // packets of one source; owned by the region's goroutine
	wakec chan struct{} // has an item when the wait between two attempts is to end; capacity 1

	mu       sync.Mutex
	running  bool
	closed   bool
	pinging  bool // pingOrHangUp is running
	state    RegionState
	client   *Client       // nil while there is no connection
	toldHome derp.HomeNote // what the relay was told about the home
	prefer   Transport     // the transport that worked last when native DERP was refused
	err      error
	health   string
	restart  restart
}

// restart is what a region knows about a restart of its relay (3.13).
type restart struct {
	advice derp.RestartAdvice // from the relay, for the end of this connection
	until  time.Time          // until then attempts follow the advice, not the backoff
}

func newRegion(p *Pool, id int, entry *Region) *region {
	return &region{pool: p, id: id, entry: entry, out: newSender(&p.wg),
		prefer: TransportNative, wakec: make(chan struct{}, 1)}
}

func (r *region) home() derp.HomeNote {
	if r.pool.home.Load() == int64(r.id) {
		return derp.IsHome
	}
	return derp.NotHome
}

// send sends packets through the region. It starts to connect if the region is not in use.
func (r *region) send(to key.NodePublic, packets [][]byte) error {
	now := time.Now().UnixNano()
	r.lastSend.Store(now)
	err := r.out.send(to, packets)
	switch {
	case !r.connected.Load():
		r.start()
	case r.silentTooLong(now):
		r.startPing()
	}
	return err
}

// silentTooLong reports whether the relay has been silent for so long that it may be dead. Of
// several senders, one gets true.
func (r *region) silentTooLong(now int64) bool {
	last := r.lastPing.Load()
	return now-r.out.counters.lastHeard.Load() > int64(silenceLimit) && now-last > int64(silencePings) &&
		r.lastPing.CompareAndSwap(last, now)
}

// applyHome acts on the current home.
func (r *region) applyHome() {
	home := r.home()
	r.mu.Lock()
	client := r.client
	tell := client != nil && r.toldHome != home
	r.toldHome = home
	r.mu.Unlock()
	if tell {
		client.noteHome(home)
	}
	if home == derp.IsHome {
		r.start()
	}
}

// start starts the region's goroutine unless it is running.
func (r *region) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running && !r.closed {
		r.running = true
		r.pool.wg.Go(r.run)
		r.pool.startIdleCheck()
	}
}

// run keeps the region connected while it is needed.
func (r *region) run() {
	for failures := 0; r.stillNeeded(); {
		err := r.serve(&failures)
		failures++
		wait := r.noteEnd(err, failures)
		r.logEnd(err, failures, wait)
		r.wait(wait)
	}
	r.pool.changed()
}

// stillNeeded reports whether the region is in use. If it is not, it becomes idle.
func (r *region) stillNeeded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed && (r.home() == derp.IsHome || time.Since(time.Unix(0, r.lastSend.Load())) < idleLimit) {
		return true
	}
	r.running = false
	r.state = RegionIdle
	return false
}

// serve connects and reads until the connection ends. It sets failures to 0 once the relay has
// admitted the client.
func (r *region) serve(failures *int) error {
	home := r.home()
	session, err := r.connect(home)
	if err != nil {
		return err
	}
	client := &Client{out: r.out, session: session}
	if !r.use(client, home) {
		session.conn.HangUp(net.ErrClosed)
		return net.ErrClosed
	}
	client.start()
	r.applyHome() // the home may have changed while connecting
	err = r.read(client, failures)
	r.connected.Store(false)
	r.out.box.Detach()
	client.endPings()
	r.pool.routes.forgetRegion(r)
	return err
}

func (r *region) connect(home derp.HomeNote) (*session, error) {
	r.mu.Lock()
	r.state = RegionConnecting
	prefer := r.prefer
	r.mu.Unlock()
	r.pool.changed()
	ctx, cancel := context.WithTimeout(r.pool.ctx, connectTimeout)
	defer cancel()
	h := newLoginOptions(r.pool.cfg.Load())
	h.home = home
	return connect(ctx, r.pool.cfg.Load(), nodeTargets(r.entry), h, prefer)
}

// use publishes client as the region's connection. It reports whether the region is still wanted.
func (r *region) use(client *Client, told derp.HomeNote) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.client, r.toldHome, r.prefer = client, told, client.session.transport
	r.restart.advice, r.health = derp.RestartAdvice{}, ""
	return true
}

// noteEnd notes the end of a connection or of an attempt. It returns how long to wait before the
// next attempt.
func (r *region) noteEnd(err error, failures int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.client, r.err = nil, err
	if refusedUpgrade(err) && r.prefer != TransportWebSocket {
		r.prefer = TransportWebSocket // a fast start learns of the refusal only now
	} else if failures > 1 {
		r.prefer = TransportNative
	}
	if r.closed || errors.Is(err, errIdle) {
		r.err = nil
		return 0
	}
	r.state = RegionWaiting
	return r.backoffLocked(failures)
}

// logEnd logs the end of a connection or of an attempt. Only the first failure in a row is logged
// at level Info.
func (r *region) logEnd(err error, failures int, wait time.Duration) {
	switch {
	case wait == 0:
		r.pool.log.Debug("relay connection closed", "region", r.id, "reason", err)
	case failures == 1:
		r.pool.log.Info("relay connection lost", "region", r.id, "err", err, "retry", wait)
	default:
		r.pool.log.Debug("relay not reached", "region", r.id, "err", err, "retry", wait)
	}
}

// backoffLocked returns the time until the next attempt (8.3), or the time that a restarting server
// has asked for (3.13).
func (r *region) backoffLocked(failures int) time.Duration {
	now := time.Now()
	if r.restart.advice.TryFor > 0 {
		in := min(time.Duration(r.restart.advice.ReconnectIn)*time.Millisecond, maxRestartAdvice)
		in = max(in, jitter(minBackoff)) // clients must not all come at once if the server says 0
		r.restart.until = now.Add(in + min(time.Duration(r.restart.advice.TryFor)*time.Millisecond, maxRestartAdvice))
		r.restart.advice = derp.RestartAdvice{}
		return in
	}
	if now.Before(r.restart.until) {
		return jitter(restartRetry)
	}
	return jitter(min(time.Duration(failures*failures)*minBackoff, maxBackoff))
}

// jitter returns d times a random number from 0.5 to 1.5.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}

// wait waits for d. It returns earlier if the region is woken or the pool is closed.
func (r *region) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	r.pool.changed()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.wakec:
	case <-r.pool.ctx.Done():
	}
}

func (r *region) wake() {
	select {
	case r.wakec <- struct{}{}:
	default:
	}
}

// read handles messages until the connection ends.
func (r *region) read(client *Client, failures *int) error {
	for {
		msgs, err := client.recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errHungUp
			}
			return err
		}
		for len(msgs) > 0 {
			n := 1
			switch m := msgs[0]; m.Kind {
			case MessagePacket:
				n = r.deliver(msgs)
			case MessagePeerGone:
				r.pool.routes.forget(m.Peer, r)
			case MessageLoggedIn:
				*failures = 0
				r.admitted()
			case MessageHealth:
				r.setHealth(excerpt(string(m.Data)))
			case MessageRestarting:
				r.setRestart(m.Data)
			}
			msgs = msgs[n:]
		}
	}
}

var errHungUp = errors.New("relay: the server closed the connection")

// deliver hands on the packets at the front of msgs that have the same source. It returns their
// number.
func (r *region) deliver(msgs []Message) int {
	from, size := msgs[0].Peer, 0
	r.batch = r.batch[:0]
	for _, m := range msgs {
		if m.Kind != MessagePacket || m.Peer != from {
			break
		}
		r.batch = append(r.batch, m.Data)
		size += len(m.Data)
	}
	r.out.counters.rxPackets.Add(uint64(len(r.batch)))
	r.out.counters.rxBytes.Add(uint64(size))
	r.pool.routes.learn(from, r)
	r.pool.deliver(r.id, from, r.batch)
	return len(r.batch)
}

// admitted notes that the server has answered the login.
func (r *region) admitted() {
	r.mu.Lock()
	r.state, r.err = RegionConnected, nil
	r.mu.Unlock()
	r.connected.Store(true)
	r.pool.changed()
}

func (r *region) setHealth(text string) {
	r.mu.Lock()
	r.health = text
	r.mu.Unlock()
	r.pool.changed()
}

func (r *region) setRestart(payload []byte) {
	advice, _ := derp.ParseRestarting(payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restart.advice = advice
}

// closeIdle closes a region other than the home that has sent nothing for idleLimit. It reports
// whether the region is in use and not the home, so that it must be checked again.
func (r *region) closeIdle(now time.Time) (inUse bool) {
	if r.home() == derp.IsHome {
		return false
	}
	if now.Sub(time.Unix(0, r.lastSend.Load())) >= idleLimit {
		r.hangUp(errIdle)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

// networkChanged checks the connection and ends the wait between two attempts. isLocal reports
// whether the machine has an address. It reports true for all if the addresses are unknown.
func (r *region) networkChanged(isLocal func(netip.Addr) bool) {
	r.mu.Lock()
	client := r.client
	if client == nil {
		r.prefer = TransportNative // the proxy that refused the upgrade may not be on the way any more
	}
	r.mu.Unlock()
	r.wake()
	if client == nil {
		return
	}
	local := addrPortOf(client.session.conn.Conn.LocalAddr()).Addr()
	if local.IsValid() && !isLocal(local.WithZone("")) {
		r.hangUp(errAddressGone)
		return
	}
	r.startPing()
}

// startPing starts pingOrHangUp unless it is running.
func (r *region) startPing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil && !r.pinging && !r.closed {
		r.pinging = true
		r.pool.wg.Go(r.pingOrHangUp)
	}
}

// pingOrHangUp closes the connection if no bytes come from the relay within pingLimit.
func (r *region) pingOrHangUp() {
	r.mu.Lock()
	client := r.client
	r.mu.Unlock()
	if client != nil {
		ctx, cancel := context.WithTimeout(r.pool.ctx, pingLimit)
		defer cancel()
		start := time.Now().UnixNano()
		// The answer may wait behind packets, which show too that the relay is alive.
		if _, err := client.Ping(ctx); err != nil && r.out.counters.lastHeard.Load() <= start {
			client.session.conn.HangUp(errNoPong)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pinging = false
}

// hangUp ends the connection, if there is one.
func (r *region) hangUp(reason error) {
	r.mu.Lock()
	client := r.client
	r.mu.Unlock()
	if client != nil {
		r.connected.Store(false)
		client.session.conn.HangUp(reason)
	}
}

// close ends the region for good.
func (r *region) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.out.box.Close()
	r.hangUp(errRegionClosed)
	r.wake()
}

// status returns a snapshot.
func (r *region) status() RegionStatus {
	t := &r.out.counters
	st := RegionStatus{
		Region:    r.id,
		RxPackets: t.rxPackets.Load(), RxBytes: t.rxBytes.Load(),
		TxPackets: t.txPackets.Load(), TxBytes: t.txBytes.Load(),
		Drops: t.drops.Load(),
	}
	if heard := t.lastHeard.Load(); heard != 0 {
		st.LastHeard = time.Unix(0, heard)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st.State, st.Err, st.Health = r.state, r.err, r.health
	if r.client != nil {
		st.Transport, st.RemoteAddr = r.client.Transport(), r.client.RemoteAddr()
	}
	return st
}
