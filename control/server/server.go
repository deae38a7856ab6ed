// Package server is the coordination server: it lets nodes in, gives them addresses and names, and
// keeps each of them told of the others (control specification). Nodes speak ts2021 to it,
// administrators the API that openapi.json describes.
//
// Goroutines: the loop of a Server, which owns the state, and those of the HTTP server on the
// channels of nodes; Close ends them. Those of the HTTP server that a Server is the handler of
// belong to that.
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
	"ginnel/internal/key"
)

// Server is a coordination server. It is an [http.Handler] for everything that is served on its
// port.
type Server struct {
	cfg        Config
	log        *slog.Logger
	core       *core
	noiseConns *noiseConns
	inner      *http.Server // on the channels
	calls      drain        // the requests on them, and those that become one
	wg         sync.WaitGroup
	outer      http.Handler
	admin      http.Handler
	once       sync.Once
	tests      policyTests
}

// New returns a server with the state of the store. It serves once it is given requests.
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

// start reads the state, makes the first view of it and starts the loop.
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

// startPolicy puts the policy of the configuration in force.
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

// AdminHandler serves the API to whoever can reach it: put it behind a socket that only
// administrators can open.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// PublicKey returns the key that clients know the server by.
func (s *Server) PublicKey() key.MachinePublic { return s.core.key.Key.Public() }

// Collector returns the metrics of the server, to be registered with those of a larger program.
func (s *Server) Collector() prometheus.Collector { return s.core.metrics.registry }

// SetDERPMap changes the relays, and tells all nodes.
func (s *Server) SetDERPMap(ctx context.Context, m control.DERPMap) error {
	err := s.core.change(ctx, s.core.setDERPMap(&m))
	if err == nil {
		s.noiseConns.versions.setRelays(&m)
	}
	return err
}

// SetDNS changes the DNS settings, and tells all nodes. Proxied is set, and BaseDomain put first in
// Domains.
func (s *Server) SetDNS(ctx context.Context, d control.DNSConfig) error {
	return s.core.change(ctx, s.core.setDNS(s.cfg.dns(d)))
}

// Close ends all connections of nodes and the loop, and returns when they have ended.
func (s *Server) Close() error {
	s.once.Do(s.stop)
	s.wg.Wait()     // no further channel is handed out
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
