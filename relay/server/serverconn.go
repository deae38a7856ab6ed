package server

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/time/rate"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// loginTimeout bounds the writing of ServerKey, and again the reading of ClientInfo (2.6).
const loginTimeout = 10 * time.Second

// trust is what a client may do.
type trust uint8

const (
	ordinary trust = iota
	meshPeer       // it has shown the mesh key (5.1)
)

// serverConn is the connection of one client. Its goroutine logs the client in and then reads;
// forward.go has what it does with frames. Other goroutines write to the client through out.
type serverConn struct {
	s        *Server
	conn     *derp.FrameConn
	out      *derp.Outbox
	in       derp.FrameReader
	remote   netip.AddrPort // zero if unknown
	source   netip.Prefix   // the address block by which remote is counted
	greeting []byte         // sent before the login, then nil
	serial   uint64         // unique among the server's connections, from 1

	// Set by the login, constant afterwards.
	key   key.NodePublic
	trust trust
	flags derp.PresentFlags
	peer  *peer

	revocations uint64 // calls of Server.Revoke before the admission controller was asked

	// Owned by the reading goroutine.
	dests   destCache
	home    derp.HomeNote
	notHere *rate.Limiter // limits PeerGone frames with reason NotHere; nil until one is due
	limiter *rate.Limiter // limits the bytes that are read; nil if there is no limit

	keepAlive keepAlive // guarded by keepAlives.mu

	// Guarded by registry.mu.
	sources map[*peer]struct{} // peers whose leaving this client must be told
	watch   *watcher
}

// run logs the client in and serves it until its connection ends (4.2).
func (c *serverConn) run() {
	log := c.s.log.With("client", c.remote.String())
	shared, err := c.login()
	if err != nil {
		log.Debug("client refused", "err", err)
	} else {
		log = log.With("key", c.key)
		log.Debug("client connected")
		err = c.serve(shared)
		log.Debug("client disconnected", "reason", err)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.s.metrics.timeouts.Inc()
		}
	}
	c.conn.HangUp(err)
	c.out.Close()
	c.in.Release()
	c.s.leave(c)
}

// login greets the client and finds out who it is.
func (c *serverConn) login() (*key.Shared, error) {
	conn := c.conn.Conn
	conn.SetDeadline(time.Now().Add(loginTimeout))
	if _, err := conn.Write(c.greeting); err != nil {
		return nil, fmt.Errorf("greeting the client: %w", err)
	}
	c.greeting = nil
	conn.SetDeadline(time.Now().Add(loginTimeout))
	info, shared, err := c.readClientInfo()
	if err != nil {
		c.s.metrics.refused.WithLabelValues(refusedHandshake).Inc()
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	conn.SetDeadline(time.Time{})
	c.revocations = c.s.revocations.Load()
	if c.s.cfg.MeshKey.Equal(info.MeshKey.MeshKey) {
		c.trust = meshPeer
		c.flags |= derp.PresentMesh
		c.conn.Timeout = meshWriteTimeout
		c.s.trustConn(c)
	} else if err := c.s.checkAdmission(c.key, c.remote.Addr()); err != nil {
		c.s.metrics.refused.WithLabelValues(refusedAdmission).Inc()
		return nil, err
	}
	if info.IsProber {
		c.flags |= derp.PresentProber
	}
	if c.flags == 0 {
		c.flags = derp.PresentRegular
	}
	return shared, nil
}

// readClientInfo reads the first frame, which must be ClientInfo.
func (c *serverConn) readClientInfo() (info derp.ClientInfo, shared *key.Shared, err error) {
	for {
		b := c.in.Buffered()
		t, n, ok := derp.ParseHeader(b)
		if ok && (t != derp.FrameClientInfo || n > derp.MaxClientInfo) {
			return info, nil, &derp.FrameError{Type: t, Length: n, Reason: "want ClientInfo"}
		}
		if size := derp.HeaderSize + int(n); ok && len(b) >= size {
			c.key, shared, info, err = derp.OpenClientInfo(c.s.cfg.Key, b[derp.HeaderSize:size])
			c.in.Take(uint64(size))
			return info, shared, err
		}
		if _, err := c.in.Read(); err != nil {
			return info, nil, err
		}
	}
}

// serve registers the client, answers its login and reads until the connection ends.
func (c *serverConn) serve(shared *key.Shared) error {
	reg := &c.s.registry
	reg.add(c)
	defer c.unregister()
	if err := c.stillAdmitted(); err != nil {
		c.s.metrics.refused.WithLabelValues(refusedAdmission).Inc()
		return err
	}
	if c.flags&derp.PresentNotIdeal != 0 {
		c.s.metrics.notIdeal.Inc()
		defer c.s.metrics.notIdeal.Dec()
	}
	// ServerInfo must be the second frame, even if packets are queued for the client by now (2.1).
	c.conn.Conn.SetWriteDeadline(time.Now().Add(c.conn.Timeout))
	answer := derp.AppendServerInfo(nil, shared, derp.ServerInfo{Version: derp.ProtocolVersion})
	if _, err := c.conn.Conn.Write(answer); err != nil {
		return fmt.Errorf("answering the login: %w", err)
	}
	c.conn.Conn.SetWriteDeadline(time.Time{})
	c.conn.Start(c.out.StartDrain)
	c.out.Attach(c.conn)
	c.s.keepAlives.add(c)
	defer c.s.keepAlives.remove(c)
	return c.read()
}

// unregister takes the client out of the registry. If this was its last connection, the clients
// that got packets from it are told (4.5).
func (c *serverConn) unregister() {
	told := c.s.registry.remove(c)
	if c.home == derp.IsHome {
		c.s.metrics.home.Dec()
	}
	c.s.sendPeerGone(c.key, told)
}

// read handles frames until the connection ends.
func (c *serverConn) read() error {
	for {
		if err := c.handleFrames(); err != nil {
			return err
		}
		n, err := c.in.Read()
		if err != nil {
			return c.conn.Cause(err)
		}
		c.throttle(n)
	}
}

// throttle waits until n more bytes are within the client's rate. While the server does not read,
// the client's TCP waits (4.7).
func (c *serverConn) throttle(n int) {
	if c.limiter == nil || c.trust == meshPeer {
		return
	}
	now := time.Now()
	var wait time.Duration
	for burst := c.limiter.Burst(); n > 0; n -= burst {
		wait = c.limiter.ReserveN(now, min(n, burst)).DelayFrom(now) // the last reservation ends last
	}
	if wait <= 0 {
		return
	}
	c.s.metrics.throttled.Add(wait.Seconds())
	c.s.sleep(wait)
}
