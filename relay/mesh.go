package relay

import (
	"errors"
	"net"
	"sync"
	"time"

	"ginnel/internal/key"
)

const (
	meshRetry        = 5 * time.Second // after a link broke (5.2)
	meshForwardLimit = 5 * time.Second // for which a link may take nothing before it is cut
)

var (
	errNoMeshKey = errors.New("relay: a mesh needs a mesh key")
	errSelfLink  = errors.New("relay: mesh link leads to this server itself")
)

// meshLink is the connection that this server opened to another one of its mesh (5.2). What comes
// on it is who is connected there; what goes out is packets for them. The other direction has a
// connection of its own.
type meshLink struct {
	s      *Server
	target *target
	cfg    ClientConfig
	out    *sender
	known  map[key.NodePublic]struct{} // reachable through it; of the goroutine that reads

	mu      sync.Mutex
	stopped bool
	session *session // nil while there is no connection
}

// Mesh keeps a connection to another server of the mesh, https://host/derp, until Close. Of cfg it
// uses how to dial and whom to trust; keys and log are the server's.
func (s *Server) Mesh(rawURL string, cfg ClientConfig) error {
	if s.cfg.MeshKey.IsZero() {
		return errNoMeshKey
	}
	t, err := urlTarget(rawURL)
	if err != nil {
		return err
	}
	cfg.Key, cfg.MeshKey, cfg.Log = s.cfg.Key, s.cfg.MeshKey, s.log
	l := &meshLink{s: s, target: t, cfg: cfg, known: make(map[key.NodePublic]struct{})}
	l.out = &sender{box: newOutbox(&s.wg, &serverLimits, &s.memory.all, linkLedger{s.metrics})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	s.links[l] = struct{}{}
	s.wg.Go(l.run)
	return nil
}

// linkLedger counts the packets that leave through the mesh.
type linkLedger struct{ m *serverMetrics }

func (l linkLedger) sent(c class, frames []byte) {
	if int(c) < len(packetKinds) {
		l.m.forwards.out.Add(float64(countFrames(frames)))
	}
}

func (l linkLedger) dropped(c class, reason dropReason, frames []byte) {
	l.m.dropped(c, reason, frames)
}

// run keeps the link up until the server ends, or for good if it turns out to lead to the server
// itself.
func (l *meshLink) run() {
	log := l.s.log.With("mesh", l.target.hostHeader())
	for {
		err := l.serve()
		if errors.Is(err, errSelfLink) {
			log.Info("mesh link ended", "err", err)
			return
		}
		select {
		case <-l.s.stopc:
			return
		default:
		}
		log.Warn("mesh link broken", "err", err, "retry", meshRetry)
		if !l.s.sleep(meshRetry) {
			return
		}
	}
}

// serve connects and reads until the connection ends.
func (l *meshLink) serve() error {
	session, err := l.connect()
	if err != nil {
		return err
	}
	if session.server == l.s.public {
		session.wire.hangUp(errSelfLink)
		return errSelfLink
	}
	if !l.use(session) {
		session.wire.hangUp(net.ErrClosed)
		return net.ErrClosed
	}
	session.wire.timeout = meshForwardLimit
	client := &Client{out: l.out, session: session}
	client.start()
	err = l.read(client)
	l.use(nil)
	l.forgetAll()
	l.out.box.detach()
	client.endPings()
	return err
}

func (l *meshLink) connect() (*session, error) {
	ctx, release := l.s.calls.context(connectTimeout)
	defer release()
	h := newHello(&l.cfg)
	h.info.CanAckPings, h.watch = false, true
	return connect(ctx, &l.cfg, []*target{l.target}, h, TransportNative)
}

// use makes s the session that stop ends, and reports whether the link is still wanted.
func (l *meshLink) use(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
	return !l.stopped
}

// stop ends the link.
func (l *meshLink) stop() {
	l.mu.Lock()
	l.stopped = true
	s := l.session
	l.mu.Unlock()
	l.out.box.close()
	if s != nil {
		s.wire.hangUp(net.ErrClosed)
	}
}

// read follows who is connected at the other end. News of a key may repeat: they set and unset
// (5.2).
func (l *meshLink) read(client *Client) error {
	for {
		msgs, err := client.recv()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			switch m.Kind {
			case messageLoggedIn:
				l.s.log.Info("mesh link up", "mesh", l.target.hostHeader(), "key", client.ServerKey())
			case messagePeerPresent:
				l.known[m.Peer] = struct{}{}
				l.s.registry.addLink(m.Peer, l)
			case MessagePeerGone:
				delete(l.known, m.Peer)
				l.forget(m.Peer)
			}
		}
	}
}

func (l *meshLink) forget(k key.NodePublic) {
	l.s.tellGone(k, l.s.registry.removeLink(k, l))
}

// forgetAll is the end of a connection: nobody is reachable through it any more.
func (l *meshLink) forgetAll() {
	for k := range l.known {
		l.forget(k)
	}
	clear(l.known)
}

// forward sends a run of RecvPacket frames to the server at the other end.
func (l *meshLink) forward(r *run, patience time.Duration) (res sendResult, err error) {
	buf := newBuffer(largeBuffer)
	defer buf.free()
	b := buf.b[:0]
	for frames := r.frames; len(frames) > 0 && err == nil; {
		size := frameSize(frames)
		b = appendForwardPacket(b, r.from, r.to, frames[sendOverhead:size])
		frames = frames[size:]
		if len(frames) == 0 || len(b)+frameSize(frames)+key.Size > batchSize {
			var part sendResult
			part, err = l.out.box.send(flowID{r.from, r.class}, b, patience-res.waited)
			res.waited += part.waited
			res.dropped += part.dropped
			b = b[:0]
		}
	}
	return res, err
}
