package server

import (
	"errors"
	"time"

	"golang.org/x/time/rate"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

const (
	// sendPatience is how long the reading goroutine of a sender waits for room in a receiver's
	// queue. While it does not read, the sender's TCP waits, which loses fewer packets than
	// dropping.
	sendPatience = 25 * time.Millisecond
	// A sender that has sent to another destination within changeMemory must not be held up for
	// long by one destination: after a wait, it does not wait again for restFactor times as long.
	changeMemory = 200 * time.Millisecond
	restFactor   = 8
	// maxDests bounds the destinations that a connection caches. When there are more, the cache is
	// emptied.
	maxDests = 256
)

var errClosedByMesh = errors.New("relay: closed by a mesh peer")

// destination is a peer that a connection has sent to.
type destination struct {
	peer       *peer
	subscribed uint64 // serial of the connection that will be told when this client leaves; 0 is none
}

// destCache finds destinations without a lock that other connections use. It belongs to the reading
// goroutine.
type destCache struct {
	byKey       map[key.NodePublic]*destination
	last        *destination
	changed     time.Time // when the destination changed last; zero if that is long ago
	noWaitUntil time.Time // no waiting before this
}

// hop tells how far packets have come.
type hop uint8

const (
	firstHop  hop = iota // from the client itself, by SendPacket
	secondHop            // from another server of the mesh, by ForwardPacket: never forwarded again (5.4)
)

// path is what the packets of a run have in common.
type path struct {
	from, to key.NodePublic
	class    derp.Class
	hop      hop
}

// run is a number of consecutive frames in the read buffer that take the same path. They are
// already RecvPacket frames.
type run struct {
	path
	frames []byte // nil if there is no run
}

// handleFrames takes all whole frames out of the buffer. Consecutive packets for one client leave
// as one run.
func (c *serverConn) handleFrames() error {
	var r run
	b := c.in.Buffered()
	if len(b) > 0 && c.peer.active.Load() != c {
		c.s.registry.activate(c) // every frame makes its connection the active one (4.6)
	}
	for {
		t, n, ok := derp.ParseHeader(b)
		if !ok {
			break
		}
		if err := c.checkHeader(t, n); err != nil {
			c.forward(&r)
			return err
		}
		size := derp.HeaderSize + int(n)
		if !isClientFrame(t) { // dropped, however long it is (3.1)
			c.s.metrics.unknown.Inc()
			c.in.Take(derp.HeaderSize + uint64(n))
			b = c.in.Buffered()
			continue
		}
		if len(b) < size {
			break
		}
		frame := b[:size]
		b = b[size:]
		c.in.Take(uint64(size))
		switch t {
		case derp.FrameSendPacket:
			c.addSend(&r, frame)
		case derp.FrameForwardPacket:
			c.addForward(&r, frame)
		default:
			c.forward(&r)
			c.handleControl(t, frame[derp.HeaderSize:])
		}
	}
	c.forward(&r)
	return nil
}

// isClientFrame reports whether a server acts on frames of this type.
func isClientFrame(t derp.FrameType) bool {
	switch t {
	case derp.FrameSendPacket, derp.FrameForwardPacket, derp.FramePing,
		derp.FrameNotePreferred, derp.FrameWatchConns, derp.FrameClosePeer:
		return true
	}
	return false
}

// checkHeader returns an error for a frame that closes the connection (3.1).
func (c *serverConn) checkHeader(t derp.FrameType, n uint32) error {
	least, most := uint32(0), ^uint32(0)
	switch t {
	case derp.FrameSendPacket:
		least, most = key.Size, key.Size+derp.MaxPacket
	case derp.FrameForwardPacket:
		least, most = 2*key.Size, derp.MaxForwardPayload
	case derp.FrameNotePreferred:
		least, most = 1, 1
	case derp.FrameWatchConns:
		most = 0
	case derp.FrameClosePeer:
		least, most = key.Size, key.Size
	case derp.FramePing:
		least, most = derp.PingSize, derp.MaxPing
	}
	if n < least || n > most {
		return &derp.FrameError{Type: t, Length: n, Reason: "wrong length"}
	}
	if c.trust != meshPeer && (t == derp.FrameForwardPacket || t == derp.FrameWatchConns || t == derp.FrameClosePeer) {
		return &derp.FrameError{Type: t, Length: n, Reason: "needs the mesh key"}
	}
	return nil
}

// addSend turns a SendPacket into the RecvPacket that its receiver gets, in place, and adds it to
// the run.
func (c *serverConn) addSend(r *run, frame []byte) {
	to := key.NodePublic(frame[derp.HeaderSize:])
	frame[0] = byte(derp.FrameRecvPacket)
	copy(frame[derp.HeaderSize:], c.key[:])
	c.addRun(r, path{from: c.key, to: to, hop: firstHop}, frame)
}

// addForward turns a ForwardPacket into a RecvPacket, which lacks the destination, and adds it to
// the run.
func (c *serverConn) addForward(r *run, frame []byte) {
	from, to := key.NodePublic(frame[derp.HeaderSize:]), key.NodePublic(frame[derp.HeaderSize+key.Size:])
	payload := len(frame) - derp.HeaderSize - key.Size
	frame = frame[key.Size:]
	copy(frame[derp.HeaderSize:], from[:])
	derp.AppendHeader(frame[:0], derp.FrameRecvPacket, payload)
	c.s.metrics.forwards.in.Inc()
	c.addRun(r, path{from: from, to: to, hop: secondHop}, frame)
}

// addRun adds a frame to the run. If the frame takes another path, it forwards the run first.
func (c *serverConn) addRun(r *run, p path, frame []byte) {
	if derp.LooksLikeDisco(frame[derp.SendOverhead:]) {
		p.class = derp.ClassDisco
	}
	if r.frames != nil && r.path != p {
		c.forward(r)
	}
	if r.frames == nil {
		*r = run{p, frame}
		return
	}
	end := len(r.frames)
	r.frames = r.frames[:end+len(frame)]
	if &r.frames[end] != &frame[0] {
		copy(r.frames[end:], frame) // close the gap that a ForwardPacket left
	}
}

// forward sends the run to its destination (4.5) and empties it.
func (c *serverConn) forward(r *run) {
	if r.frames == nil {
		return
	}
	c.s.metrics.received[r.class].add(r.frames)
	d := c.dest(r.to)
	var to *serverConn
	var link *meshLink
	if d != nil {
		to, link = d.peer.active.Load(), d.peer.link.Load()
	}
	switch {
	case to != nil:
		c.subscribe(d, r, to)
		c.dests.waited(to.out.Send(derp.FlowID{Peer: r.from, Class: r.class}, r.frames, c.dests.patience(r.class)))
	case link != nil && r.hop == firstHop:
		c.dests.waited(link.forward(r, c.dests.patience(r.class)))
	default:
		reason := derp.DropUnknownDest
		if r.hop == secondHop {
			reason = derp.DropUnknownDestOnForward
		}
		c.s.metrics.Dropped(r.class, reason, r.frames)
		if r.class == derp.ClassDisco {
			c.sendNotHere(r.to)
		}
	}
	r.frames = nil
}

// dest looks up a destination. It returns nil if the key is unknown.
func (c *serverConn) dest(k key.NodePublic) *destination {
	rt := &c.dests
	if d := rt.last; d != nil && d.peer.key == k && !d.peer.gone.Load() {
		return d
	}
	d := rt.byKey[k]
	if d == nil || d.peer.gone.Load() {
		p := c.s.registry.lookup(k)
		if p == nil {
			delete(rt.byKey, k)
			return nil
		}
		d = &destination{peer: p}
		if rt.byKey == nil || len(rt.byKey) >= maxDests {
			rt.byKey = make(map[key.NodePublic]*destination)
		}
		rt.byKey[k] = d
	}
	if rt.last != nil {
		rt.changed = time.Now()
	}
	rt.last = d
	return d
}

// subscribe makes sure that the receiver will be told when the source of the run leaves.
func (c *serverConn) subscribe(d *destination, r *run, to *serverConn) {
	switch {
	case r.hop == firstHop && d.subscribed != to.serial:
		c.s.registry.subscribe(r.from, to)
		d.subscribed = to.serial
	case r.hop == secondHop && !c.s.registry.subscribed(r.from, to):
		c.s.registry.subscribe(r.from, to)
	}
}

// patience returns how long the next run may wait for room.
func (rt *destCache) patience(cl derp.Class) time.Duration {
	if cl != derp.ClassData {
		return 0
	}
	if rt.changed.IsZero() {
		return sendPatience
	}
	now := time.Now()
	if now.Sub(rt.changed) > changeMemory {
		rt.changed = time.Time{}
		return sendPatience
	}
	if now.Before(rt.noWaitUntil) {
		return 0
	}
	return sendPatience
}

// waited notes how long a run has waited.
func (rt *destCache) waited(res derp.SendResult, _ error) {
	if res.Waited > 0 && !rt.changed.IsZero() {
		rt.noWaitUntil = time.Now().Add(restFactor * res.Waited)
	}
}

// sendNotHere answers a run of disco packets for an unknown key: three times at once, then at most
// once a second (4.5).
func (c *serverConn) sendNotHere(peer key.NodePublic) {
	if c.notHere == nil {
		c.notHere = rate.NewLimiter(1, 3)
	}
	if c.notHere.Allow() {
		c.out.Send(derp.FlowID{Class: derp.ClassControl}, derp.AppendPeerGone(nil, peer, derp.GoneNotHere), 0)
		c.s.metrics.peerGone.WithLabelValues("not_here").Inc()
	}
}

// handleControl acts on a frame that is not a packet. Its length has been checked.
func (c *serverConn) handleControl(t derp.FrameType, p []byte) {
	switch t {
	case derp.FramePing:
		data, _ := derp.ParsePing(p)
		var pong [derp.PongFrameSize]byte
		c.s.metrics.pings.Inc()
		res, err := c.out.Send(derp.FlowID{Class: derp.ClassPong}, derp.AppendPong(pong[:0], data), 0)
		if res.Dropped == 0 && err == nil {
			c.s.metrics.pongs.Inc()
		}
	case derp.FrameNotePreferred:
		c.noteHome(derp.HomeNote(min(p[0], 1)))
	case derp.FrameWatchConns:
		if c.key != c.s.public && c.watch == nil { // a mesh link of the server to itself is ignored (5.2)
			c.s.registry.watch(c)
			c.s.wg.Go(c.feedWatcher)
		}
	case derp.FrameClosePeer:
		for _, other := range c.s.registry.connsOf(key.NodePublic(p)) {
			other.conn.Fail(errClosedByMesh)
		}
	}
}

// noteHome counts the clients that have this relay as their home (3.5).
func (c *serverConn) noteHome(note derp.HomeNote) {
	if note == c.home {
		return
	}
	c.home = note
	if note == derp.IsHome {
		c.s.metrics.home.Inc()
		c.s.metrics.homeMoves.WithLabelValues("in").Inc()
	} else {
		c.s.metrics.home.Dec()
		c.s.metrics.homeMoves.WithLabelValues("out").Inc()
	}
}

// feedWatcher sends a mesh peer the changes of presence until its connection ends. A peer that
// takes too few is disconnected: when it comes back it gets the whole state.
func (c *serverConn) feedWatcher() {
	var b []byte
	for range c.watch.wakec {
		b = c.s.registry.appendChanges(c.watch, b[:0])
		res, err := c.out.Send(derp.FlowID{Class: derp.ClassControl}, b, meshWriteTimeout)
		if res.Dropped > 0 || err != nil {
			c.conn.Fail(errSlowWatcher)
			return
		}
	}
}

var errSlowWatcher = errors.New("relay: mesh peer is too slow to take its updates")
