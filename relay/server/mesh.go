package server

import (
	"errors"
	"net"
	"sync"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
)

const (
	meshRetry        = 5 * time.Second // after a link has broken (5.2)
	meshForwardLimit = 5 * time.Second // a link that takes no bytes for so long is closed
)

var (
	errNoMeshKey = errors.New("relay: a mesh needs a mesh key")
	errSelfLink  = errors.New("relay: mesh link leads to this server itself")
)

// meshLink is the connection that this server has opened to another server of its mesh (5.2). On it
// come announcements of the clients there; packets for them go out. Packets from the other server
// come on the connection that the other server has opened.
type meshLink struct {
	s      *Server
	dialer *relay.MeshDialer
	out    *derp.Outbox                // keeps frames between connections
	known  map[key.NodePublic]struct{} // keys reachable through it; owned by the goroutine that reads

	mu      sync.Mutex
	stopped bool
	conn    *relay.MeshConn // nil while there is no connection
}

// Mesh keeps a connection to another server of the mesh, https://host/derp, until Close. Of cfg it
// uses the dialing functions and the roots; keys and log are the server's.
func (s *Server) Mesh(rawURL string, cfg relay.ClientConfig) error {
	if s.cfg.MeshKey.IsZero() {
		return errNoMeshKey
	}
	cfg.Key, cfg.MeshKey, cfg.Log = s.cfg.Key, s.cfg.MeshKey, s.log
	dialer, err := relay.NewMeshDialer(rawURL, cfg)
	if err != nil {
		return err
	}
	l := &meshLink{s: s, dialer: dialer, known: make(map[key.NodePublic]struct{})}
	l.out = derp.NewOutbox(&s.wg, &serverLimits, s.memory.all, meshCounter{s.metrics})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	s.running.links[l] = struct{}{}
	s.wg.Go(l.run)
	return nil
}

// meshCounter counts the packets that leave through the mesh.
type meshCounter struct{ m *serverMetrics }

func (l meshCounter) Sent(c derp.Class, frames []byte) {
	if int(c) < len(packetKinds) {
		l.m.forwards.out.Add(float64(derp.CountFrames(frames)))
	}
}

func (l meshCounter) Dropped(c derp.Class, reason derp.DropReason, frames []byte) {
	l.m.Dropped(c, reason, frames)
}

// run keeps the link connected until the server ends. It gives up if the link leads to the server
// itself.
func (l *meshLink) run() {
	log := l.s.log.With("mesh", l.dialer.Host())
	for {
		err := l.serve()
		if errors.Is(err, errSelfLink) {
			log.Info("mesh link ended", "err", err)
			return
		}
		select {
		case <-l.s.ctx.Done():
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
	conn, err := l.dialer.Dial(l.s.ctx)
	if err != nil {
		return err
	}
	if conn.ServerKey() == l.s.public {
		conn.HangUp(errSelfLink)
		return errSelfLink
	}
	if !l.use(conn) {
		conn.HangUp(net.ErrClosed)
		return net.ErrClosed
	}
	err = conn.Serve(l.out, meshForwardLimit, l.handle)
	l.use(nil)
	l.forgetAll()
	l.out.Detach()
	return err
}

// use makes c the connection that stop ends, and reports whether the link is still wanted.
func (l *meshLink) use(c *relay.MeshConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
	return !l.stopped
}

// stop ends the link.
func (l *meshLink) stop() {
	l.mu.Lock()
	l.stopped = true
	conn := l.conn
	l.mu.Unlock()
	l.out.Close()
	if conn != nil {
		conn.HangUp(net.ErrClosed)
	}
}

// handle follows which clients are connected to the other server. An announcement may repeat an
// earlier one (5.2).
func (l *meshLink) handle(m relay.Message) {
	switch m.Kind {
	case relay.MessageLoggedIn:
		l.s.log.Info("mesh link up", "mesh", l.dialer.Host(), "key", l.conn.ServerKey())
	case relay.MessagePeerPresent:
		l.known[m.Peer] = struct{}{}
		l.s.registry.addLink(m.Peer, l)
	case relay.MessagePeerGone:
		delete(l.known, m.Peer)
		l.forget(m.Peer)
	}
}

func (l *meshLink) forget(k key.NodePublic) {
	l.s.sendPeerGone(k, l.s.registry.removeLink(k, l))
}

// forgetAll forgets the keys behind a connection that has ended.
func (l *meshLink) forgetAll() {
	for k := range l.known {
		l.forget(k)
	}
	clear(l.known)
}

// forward sends a run of RecvPacket frames to the other server, as ForwardPacket frames.
func (l *meshLink) forward(r *run, patience time.Duration) (res derp.SendResult, err error) {
	buf := derp.NewBuffer(derp.LargeBuffer)
	defer buf.Free()
	b := buf.B[:0]
	for frames := r.frames; len(frames) > 0 && err == nil; {
		size := derp.FrameSize(frames)
		b = derp.AppendForwardPacket(b, r.from, r.to, frames[derp.SendOverhead:size])
		frames = frames[size:]
		if len(frames) == 0 || len(b)+derp.FrameSize(frames)+key.Size > derp.BatchSize {
			var part derp.SendResult
			part, err = l.out.Send(derp.FlowID{Peer: r.from, Class: r.class}, b, patience-res.Waited)
			res.Waited += part.Waited
			res.Dropped += part.Dropped
			b = b[:0]
		}
	}
	return res, err
}
