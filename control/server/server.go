// Package server is the coordination server. It registers nodes, assigns their addresses and names,
// and tells each node about the others (control specification). Nodes speak the ts2021 protocol to
// it. Administrators use the HTTP API that openapi.json describes.
//
// Goroutines: the loop of a Server, which owns the state, and the goroutines of the HTTP server
// that serves the Noise connections of nodes. Close ends both. Goroutines of an HTTP server whose
// handler is the Server belong to that HTTP server.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"ginnel/control"
	"ginnel/key"
)

// Server is a coordination server. Its [http.Handler] serves everything on the server's public
// port.
type Server struct {
	cfg        Config
	log        *slog.Logger
	core       *core
	noiseConns *noiseConns
	inner      *http.Server // on the Noise connections
	calls      drain        // requests on Noise connections, and upgrades to one
	wg         sync.WaitGroup
	outer      http.Handler
	admin      http.Handler
	once       sync.Once
	tests      policyTests
}

// New loads the state from the store and returns a server that is ready for requests.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	plan, err := newAddressPlan(cfg.prefixes())
	if err != nil {
		return nil, fmt.Errorf("control server: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.log(), noiseConns: newNoiseConns()}
	s.noiseConns.versions.setRelays(&cfg.DERPMap)
	s.inner = s.newInner()
	s.core = &core{
		cfg:        &s.cfg,
		log:        s.log,
		metrics:    newMetrics(),
		limited:    newLimitedLog(s.log),
		plan:       plan,
		cmdc:       make(chan *command),
		stopc:      make(chan struct{}),
		streams:    make(map[int64]*stream),
		storage:    storage{Store: cfg.Store},
		loginWaits: make(map[string]loginWait),
		encoders:   make(chan struct{}, runtime.GOMAXPROCS(0)),
		pending:    pending{ids: make(map[int64]bool)},
	}
	s.core.metrics.observe(s)
	if err := s.core.start(); err != nil {
		return nil, err
	}
	if err := s.startPolicy(); err != nil {
		s.Close()
		return nil, err
	}
	s.logFailingTests()
	s.outer, s.admin = s.routes(), s.adminRoutes()
	s.wg.Go(s.serveNoiseConns)
	return s, nil
}

// start loads the state, publishes the first snapshot and starts the loop.
func (c *core) start() error {
	at := c.cfg.moment()
	k, err := c.storage.loadKey()
	if err != nil {
		return err
	}
	c.key = k
	st, err := c.load(at)
	if err != nil {
		return err
	}
	c.st = st
	empty := newStep(nil, &snapshot{rules: &rules{}, derp: &c.cfg.DERPMap, dns: c.cfg.dns(c.cfg.DNS)}, nil)
	c.latest.Store(empty)
	t := &tx{state: st, moment: at, usersChanged: true, rulesChanged: true}
	for id := range st.nodes {
		t.changed = append(t.changed, id)
	}
	for _, l := range st.logins {
		c.resetLoginTimer(t, l)
	}
	c.pending.primaries = primariesOf(st.nodes)
	c.committed(t)
	c.publish(at)
	c.wg.Go(c.run)
	return nil
}

// startPolicy puts the policy of the configuration in force, if it has one.
func (s *Server) startPolicy() error {
	if len(s.cfg.Policy) == 0 {
		return nil
	}
	if _, err := s.LoadPolicy(context.Background(), s.cfg.Policy); err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	return nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.outer.ServeHTTP(w, r) }

// AdminHandler serves the API without asking for a token. Serve it on a socket that only
// administrators can open.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// PublicKey returns the key by which clients authenticate the server.
func (s *Server) PublicKey() key.MachinePublic { return s.core.key.Key.Public() }

// Collector returns the metrics of the server. The caller registers them with its own.
func (s *Server) Collector() prometheus.Collector { return s.core.metrics.registry }

// SetDERPMap replaces the relay map and sends it to all nodes.
func (s *Server) SetDERPMap(ctx context.Context, m control.DERPMap) error {
	err := s.core.change(ctx, s.core.setDERPMap(&m))
	if err == nil {
		s.noiseConns.versions.setRelays(&m)
	}
	return err
}

// SetDNS replaces the DNS settings and sends them to all nodes. It sets Proxied and puts BaseDomain
// first in Domains.
func (s *Server) SetDNS(ctx context.Context, d control.DNSConfig) error {
	return s.core.change(ctx, s.core.setDNS(s.cfg.dns(d)))
}

// Close closes all connections of nodes, ends the loop and waits for both.
func (s *Server) Close() error {
	s.once.Do(s.stop)
	s.wg.Wait()     // afterwards Accept hands out no further connection
	s.inner.Close() // ends one that was handed out meanwhile
	s.calls.close()
	s.noiseConns.wg.Wait()
	s.core.wg.Wait()
	return nil
}

func (s *Server) stop() {
	close(s.core.stopc)
	close(s.noiseConns.stopc)
	s.inner.Close()
}
