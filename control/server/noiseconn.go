package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/share"
	"ginnel/key"
)

const (
	// connIdleTimeout is how long a connection may be open without a request.
	connIdleTimeout = 2 * time.Minute
	// maxConnRequests limits the concurrent requests on a connection: a stream, an update and those
	// of optional features.
	maxConnRequests = 100
	// A machine that is silent for pingAfter gets an HTTP/2 ping. The connection is closed if it
	// does not answer, or accepts no data, for connTimeout.
	pingAfter   = time.Minute
	connTimeout = 15 * time.Second
	pathMachine = "/machine/"
)

var errNoNode = errors.New("no such node on this machine")

// noiseConn is the Noise connection of a machine.
type noiseConn struct {
	*control.Conn
	core   *core
	all    *noiseConns
	log    *slog.Logger
	source netip.Prefix // address of the machine; see share.SourceOf
}

// noiseConnKey is the key of the noiseConn in the context of a request.
type noiseConnKey struct{}

// machine returns the key of the machine at the other end.
func (nc *noiseConn) machine() key.MachinePublic { return nc.Peer() }

// newInner returns the server that speaks HTTP/2 on the Noise connections.
func (s *Server) newInner() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:     http.HandlerFunc(s.serveMachine),
		Protocols:   protocols,
		ConnContext: withNoiseConn,
		ConnState:   s.noiseConns.change,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxConnRequests,
			SendPingTimeout:      pingAfter,
			PingTimeout:          connTimeout,
			WriteByteTimeout:     connTimeout,
		},
		IdleTimeout:       connIdleTimeout,
		ReadHeaderTimeout: requestTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func withNoiseConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, noiseConnKey{}, conn)
}

// serveNoiseConns serves Noise connections until the server is closed.
func (s *Server) serveNoiseConns() { s.inner.Serve(s.noiseConns) }

// handleUpgrade turns an HTTP connection into a Noise connection.
func (s *Server) handleUpgrade(w http.ResponseWriter, r *http.Request) {
	ctx, h, oldest := s.noiseConns.beginHandshake(r.Context(), r.RemoteAddr)
	if oldest != nil {
		s.core.limited.displaced.Write(time.Now(), share.SourceOfHost(oldest.remote),
			"limit", "handshakes", "remote", oldest.remote)
		oldest.cancel()
	}
	conn, err := control.Accept(ctx, w, r, control.AcceptConfig{Key: s.core.key.Key})
	s.noiseConns.endHandshake(h)
	if err != nil {
		s.core.metrics.refusedConns.Inc()
		s.log.Debug("Noise connection refused", "remote", r.RemoteAddr, "err", err)
		return
	}
	nc := &noiseConn{Conn: conn, core: s.core, all: s.noiseConns, log: s.log, source: share.SourceOfHost(r.RemoteAddr)}
	if err := s.reserve(r.Context(), nc); err != nil {
		conn.Close()
		s.core.metrics.refusedConns.Inc()
		s.log.Debug("Noise connection refused", "remote", r.RemoteAddr, "machine", nc.machine(), "err", err)
		return
	}
	s.noiseConns.open(nc)
}

// reserve counts a connection against the limit for machines without a node. Machines with a node
// are exempt, so that others cannot keep them out.
func (s *Server) reserve(ctx context.Context, nc *noiseConn) error {
	known := false
	err := s.core.change(ctx, func(t *tx) error {
		known = len(t.byMachine[nc.machine()]) > 0
		return nil
	})
	if err != nil || known {
		return err
	}
	if oldest := s.noiseConns.reserve(nc, s.cfg.maxUnregistered()); oldest != nil {
		s.core.limited.displaced.Write(time.Now(), oldest.source,
			"limit", "connections of unregistered machines", "remote", oldest.RemoteAddr())
		oldest.Conn.Close()
	}
	return nil
}

// serveMachine answers the requests on Noise connections. The authority of a request is ignored
// (section 3).
func (s *Server) serveMachine(w http.ResponseWriter, r *http.Request) {
	nc, ok := r.Context().Value(noiseConnKey{}).(*noiseConn)
	if !ok {
		http.Error(w, "the request did not arrive on a Noise connection", http.StatusInternalServerError)
		return
	}
	if !s.calls.enter() {
		http.Error(w, "the server is closing", http.StatusServiceUnavailable)
		return
	}
	defer s.calls.leave()
	switch {
	case r.Method == http.MethodPost && r.URL.Path == pathMachine+"register":
		nc.handleRegister(w, r)
	case r.Method == http.MethodPost && r.URL.Path == pathMachine+"map":
		nc.handleMap(w, r)
	case r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, pathProbe):
		nc.handleProbe(w, r)
	case r.URL.Path == pathMachine+"whoami":
		w.Write([]byte(nc.machine().String() + "\n"))
	case strings.HasPrefix(r.URL.Path, pathMachine):
		http.Error(w, "not implemented", http.StatusNotImplemented)
	default:
		http.NotFound(w, r)
	}
}

// supported answers 400 to a client that is too old, and returns false.
func (nc *noiseConn) supported(w http.ResponseWriter, version int) bool {
	return nc.all.versions.supported(w, version)
}

// admitted records that the machine has a node.
func (nc *noiseConn) admitted() { nc.all.release(nc) }

// refuse answers a request that failed.
func (nc *noiseConn) refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoNode):
		http.Error(w, "node not found", http.StatusNotFound)
	case isStoreError(err):
		http.Error(w, "the server cannot store changes at the moment", http.StatusServiceUnavailable)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
