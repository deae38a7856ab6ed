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
	"ginnel/internal/key"
	"ginnel/internal/share"
)

const (
	// idleChannel is how long a channel may be open without a request.
	connIdleTimeout = 2 * time.Minute
	// channelStreams is how many requests a channel may have at once: a stream, an update and what
	// comes with features.
	maxConnRequests = 100
	// A machine that is silent is asked whether it is there; one that does not answer, or takes
	// nothing, is cut.
	pingAfter   = time.Minute
	connTimeout = 15 * time.Second
	pathMachine = "/machine/"
)

var errNoNode = errors.New("no such node on this machine")

// channel is the connection of one machine.
type noiseConn struct {
	*control.Conn
	core   *core
	all    *noiseConns
	log    *slog.Logger
	source netip.Prefix // where it comes from; see share.SourceOf
}

// channelKey is where the context of a request has its channel.
type noiseConnKey struct{}

// machine is whose the channel is.
func (nc *noiseConn) machine() key.MachinePublic { return nc.Peer() }

// newInner returns what speaks HTTP/2 on the channels.
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

// serveChannels serves the channels that are opened until the server is closed.
func (s *Server) serveNoiseConns() { s.inner.Serve(s.noiseConns) }

// handleUpgrade turns a connection into a channel.
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
		s.log.Debug("channel refused", "remote", r.RemoteAddr, "err", err)
		return
	}
	nc := &noiseConn{Conn: conn, core: s.core, all: s.noiseConns, log: s.log, source: share.SourceOfHost(r.RemoteAddr)}
	if err := s.place(r.Context(), nc); err != nil {
		conn.Close()
		s.core.metrics.refusedConns.Inc()
		s.log.Debug("channel refused", "remote", r.RemoteAddr, "machine", nc.machine(), "err", err)
		return
	}
	s.noiseConns.open(nc)
}

// place makes room for a channel: those of machines that have a node need none, so that strangers
// cannot keep them out.
func (s *Server) place(ctx context.Context, nc *noiseConn) error {
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
			"limit", "channels of unknown machines", "remote", oldest.RemoteAddr())
		oldest.Conn.Close()
	}
	return nil
}

// serveMachine answers the requests of machines. The authority of a request says nothing (section
// 3).
func (s *Server) serveMachine(w http.ResponseWriter, r *http.Request) {
	nc, ok := r.Context().Value(noiseConnKey{}).(*noiseConn)
	if !ok {
		http.Error(w, "the request came by no channel", http.StatusInternalServerError)
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

// supported answers 400 to a client that is too old.
func (nc *noiseConn) supported(w http.ResponseWriter, version int) bool {
	return nc.all.versions.supported(w, version)
}

// admitted notes that a node of the machine is registered.
func (nc *noiseConn) admitted() { nc.all.release(nc) }

// refuse answers a request that failed.
func (nc *noiseConn) refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoNode):
		http.Error(w, "node not found", http.StatusNotFound)
	case isStoreError(err):
		http.Error(w, "the server cannot keep its state at the moment", http.StatusServiceUnavailable)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
