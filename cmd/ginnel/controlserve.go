package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/control/store"
	relayserver "ginnel/relay/server"
)

const (
	// requestLimit bounds TLS handshake and HTTP request, each; what is upgraded has limits of its
	// own.
	requestLimit = 15 * time.Second
	// lastRequests is how long requests that are being answered may take when the server ends.
	lastRequests = time.Second
	maxHeader    = 16 << 10
)

// controlService is a coordination server with its relay and all its listeners.
type controlService struct {
	f      *controlFlags
	log    *slog.Logger
	dir    string   // of the state
	site   *url.URL // by which nodes find the server
	store  *store.Bolt
	ctl    *server.Server
	relay  *relayserver.Server
	pin    string         // of a self-signed certificate
	devKey server.AuthKey // of --dev
	addr   string         // of the port, as bound
	stun   string         // of the STUN server, as bound, or none
	// stunPort is what clients are told of it: -1 for none, as the DERP map has it.
	stunPort int

	stopc   chan struct{}
	wg      sync.WaitGroup
	files   sync.WaitGroup // counts watchFiles, which a file may hold up
	filesc  chan struct{}  // closed when watchFiles has ended; nil if it has not begun
	failed  chan error     // has room for all listeners
	opened  []func()       // what closes what was opened
	servers []*http.Server
}

func runControl(cmd *cobra.Command, f *controlFlags, p program) error {
	if err := f.check(); err != nil {
		return withStrayVariables(err, cmd, p)
	}
	dir, temporary, err := f.stateDir(p)
	if err != nil {
		return err
	}
	if temporary {
		defer os.RemoveAll(dir)
	}
	s := &controlService{f: f, log: f.log.logger(p.stderr), dir: dir, site: f.site, stopc: make(chan struct{}), failed: make(chan error, 8)}
	warnOfEnvironment(cmd, p, s.log)
	state, err := openState(dir)
	if err != nil {
		return err
	}
	defer state.close()
	return s.run(cmd.Context(), p)
}

// run serves until ctx ends or a listener fails.
func (s *controlService) run(ctx context.Context, p program) error {
	hup, forget := hangUps()
	defer forget()
	defer s.close()
	if err := s.open(ctx); err != nil {
		return err
	}
	s.filesc = make(chan struct{})
	s.files.Go(func() { s.watchFiles(hup) })
	s.log.Info("coordination server is up", "url", s.site.String(), "addr", s.addr, "stun", s.stun,
		"relay", s.f.embedded.text, "domain", s.f.baseDomain, "state", s.dir)
	if err := s.describe(p); err != nil {
		return err
	}
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
	}
	s.drain()
	return nil
}

// describe prints what people need next.
func (s *controlService) describe(p program) error {
	if s.f.dev {
		return s.invite(p)
	}
	if s.f.how != tlsSelfSigned {
		return nil
	}
	_, err := fmt.Fprintf(p.stdout, "certificate pin: %s\n", s.pin)
	return err
}

// open makes all parts and opens all ports, so that what is in the way is found before anybody is
// served.
func (s *controlService) open(ctx context.Context) error {
	ln, err := s.openPort(ctx)
	if err != nil {
		return err
	}
	s.closeLater(func() { ln.Close() })
	s.addr = ln.Addr().String()
	if s.site == nil {
		s.site = devURL(ln.Addr())
	}
	conf, err := s.certificates()
	if err != nil {
		return err
	}
	stun, err := s.openSTUN()
	if err != nil {
		return err
	}
	if err := s.newServers(ctx); err != nil {
		if stun != nil {
			stun.Close()
		}
		return err
	}
	if stun != nil {
		s.serve(func() error { return s.relay.ServeSTUN(stun) })
	}
	tlsConf, err := s.tlsConfig(conf)
	if err != nil {
		return err
	}
	if s.f.dev {
		if err := s.prepareDev(ctx); err != nil {
			return err
		}
	}
	if err := s.serveAside(); err != nil {
		return err
	}
	s.servePort(ln, tlsConf)
	return nil
}

// newServers makes the coordination server and the relay, which asks it whom to let in.
func (s *controlService) newServers(ctx context.Context) (err error) {
	if s.store, err = store.Open(filepath.Join(s.dir, "control.db")); err != nil {
		return err
	}
	s.closeLater(func() { s.store.Close() })
	if err := s.newRelay(); err != nil {
		return err
	}
	cfg := server.Config{
		Store: s.store, URL: s.site.String(), BaseDomain: s.f.baseDomain, DERPMap: s.derpMap(s.f.relays),
		EphemeralTimeout: s.f.ephemeralTimeout.value, NodeExpiry: s.f.nodeExpiry.value,
		Version: buildVersion(), Log: s.log, Revoked: s.relay.Revoke, DNS: s.f.names,
	}
	if s.ctl, err = server.New(cfg); err != nil {
		return err
	}
	s.closeLater(func() { s.ctl.Close() })
	return s.startPolicy(ctx)
}

// newRelay makes the relay. It serves nobody before the coordination server is there to be asked.
func (s *controlService) newRelay() error {
	key, err := relayserver.LoadKey(filepath.Join(s.dir, "relay.key"))
	if err != nil {
		return err
	}
	ask := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ctl.ServeHTTP(w, r) })
	s.relay, err = relayserver.New(relayserver.Config{
		Key: key, Log: s.log,
		AdmissionURL: "http://control/verify", AdmissionStrict: true, HTTPClient: &http.Client{Transport: inProcess{ask}},
	})
	if err != nil {
		return err
	}
	s.closeLater(func() { s.relay.Close() })
	return nil
}

// openPort opens the port of server and relay. With --dev any will do.
func (s *controlService) openPort(ctx context.Context) (net.Listener, error) {
	addr := s.f.listen
	if addr == "" {
		addr = devListen
		if s.site != nil {
			addr = siteListen(s.site)
		}
	}
	ln, err := relayserver.Listen(ctx, addr)
	if errors.Is(err, syscall.EADDRINUSE) && s.f.listen == "" && s.site == nil {
		ln, err = relayserver.Listen(ctx, ":0")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the server's port: %w", err)
	}
	return ln, nil
}

// openSTUN opens the STUN server's port; nil if there is to be none. With --dev any will do.
func (s *controlService) openSTUN() (net.PacketConn, error) {
	s.stun, s.stunPort = "none", -1
	if s.f.stun == "none" || !s.f.embedded.value {
		return nil, nil
	}
	addr := s.f.stun
	if addr == "" {
		addr = s.f.defaultSTUN()
	}
	pc, err := net.ListenPacket("udp", addr)
	if errors.Is(err, syscall.EADDRINUSE) && s.f.stun == "" {
		pc, err = net.ListenPacket("udp", net.JoinHostPort(hostOf(addr), "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the STUN port: %w", err)
	}
	s.stun = pc.LocalAddr().String()
	s.stunPort = portNumber(s.stun)
	return pc, nil
}

// servePort serves the port: what the relay has on it, and the rest from the coordination server.
func (s *controlService) servePort(ln net.Listener, conf tlsSettings) {
	mux := http.NewServeMux()
	mux.Handle("/", s.ctl)
	if s.f.embedded.value {
		for _, path := range []string{"/derp", "/derp/", "/bootstrap-dns", "/robots.txt"} {
			mux.Handle(path, s.relay)
		}
	}
	hs := s.newHTTPServer(mux)
	if s.f.how != tlsForRelay {
		s.serve(func() error { return hs.Serve(s.relay.Listener(ln, conf)) })
		return
	}
	split := newSplitter(ln, s.log)
	s.closeLater(func() { split.Close() })
	s.wg.Go(split.run)
	s.serve(func() error { return hs.Serve(s.relay.Listener(split.tls, conf)) })
	s.serve(func() error { return hs.Serve(s.relay.Listener(split.plain, nil)) })
}

// serveAside serves what is not for nodes: administration and metrics.
func (s *controlService) serveAside() error {
	ln, err := listenAdmin(s.dir)
	if err != nil {
		return err
	}
	s.serveHTTP(ln, s.ctl.AdminHandler())
	if s.f.metrics == "" || s.f.metrics == "none" {
		return nil
	}
	all := prometheus.NewRegistry()
	all.MustRegister(s.ctl.Collector(), s.relay.Collector())
	pages, err := net.Listen("tcp", s.f.metrics)
	if err != nil {
		return fmt.Errorf("opening the metrics port: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{}))
	s.serveHTTP(pages, mux)
	s.log.Info("listening", "for", "metrics", "addr", pages.Addr())
	return nil
}

// serveHTTP serves a handler alone on a listener.
func (s *controlService) serveHTTP(ln net.Listener, h http.Handler) {
	hs := s.newHTTPServer(h)
	s.serve(func() error { return hs.Serve(ln) })
}

func (s *controlService) newHTTPServer(h http.Handler) *http.Server {
	hs := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: requestLimit,
		ReadTimeout:       2 * requestLimit,
		WriteTimeout:      2 * requestLimit,
		IdleTimeout:       2 * requestLimit,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, hs)
	return hs
}

// serve runs f until the service is closed; an end before that ends the service.
func (s *controlService) serve(f func() error) {
	s.wg.Go(func() { s.serveUntilClosed(f) })
}

func (s *controlService) serveUntilClosed(f func() error) {
	if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		s.failed <- err
	}
}

// drain lets requests end and tells the relay's clients to come back.
func (s *controlService) drain() {
	s.log.Info("draining")
	requests, cancel := context.WithTimeout(context.Background(), lastRequests)
	defer cancel()
	for _, hs := range s.servers {
		hs.Shutdown(requests)
	}
	clients, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	s.relay.Shutdown(clients)
}

// closeLater has something closed when the service is, the last first.
func (s *controlService) closeLater(f func()) { s.opened = append(s.opened, f) }

func (s *controlService) close() {
	close(s.stopc)
	for _, hs := range s.servers {
		hs.Close()
	}
	for i := len(s.opened) - 1; i >= 0; i-- {
		s.opened[i]()
	}
	s.wg.Wait()
	s.endFiles()
}

// endFiles waits for the end of watchFiles, except where a file system keeps it for good.
func (s *controlService) endFiles() {
	if s.filesc == nil {
		return
	}
	select {
	case <-s.filesc:
	case <-time.After(lastRequests):
		s.log.Warn("a file is still being read")
	}
}
