package controlcmd

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
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/control/store"
	"ginnel/internal/cli"
	"ginnel/internal/cli/service"
	"ginnel/internal/cli/statedir"
	relayserver "ginnel/relay/server"
)

// controlService is a coordination server with its relay and all its listeners.
type controlService struct {
	options *serveOptions
	log     *slog.Logger
	dir     string   // of the state
	version string   // of this program, for the nodes
	site    *url.URL // by which nodes find the server
	store   *store.Bolt
	ctl     *server.Server
	relay   *relayserver.Server
	pin     string         // of a self-signed certificate
	devKey  server.AuthKey // of --dev
	addr    string         // of the port, as bound
	stun    string         // of the STUN server, as bound, or none
	// stunPort is what clients are told of it: -1 for none, as the DERP map has it.
	stunPort int

	runner *service.Runner
}

// run serves until the context of the command ends.
func (o *serveOptions) run(cmd *cobra.Command, p cli.Program) error {
	if err := o.check(); err != nil {
		return cli.WithStrayVariables(err, cmd, p)
	}
	dir, temporary, err := o.stateDir(p)
	if err != nil {
		return err
	}
	if temporary {
		defer os.RemoveAll(dir)
	}
	s := &controlService{options: o, log: o.Log.Logger(p.Stderr), dir: dir, version: p.BuildVersion(), site: o.site}
	cli.WarnOfEnvironment(cmd, p, s.log)
	state, err := statedir.Open(dir)
	if err != nil {
		return err
	}
	defer state.Close()
	return s.run(cmd.Context(), p)
}

// run serves until ctx ends or a listener fails.
func (s *controlService) run(ctx context.Context, p cli.Program) error {
	s.runner = service.New(s.log)
	defer s.runner.Close()
	if err := s.open(ctx); err != nil {
		return err
	}
	s.watchFiles()
	s.log.Info("coordination server is up", "url", s.site.String(), "addr", s.addr, "stun", s.stun,
		"relay", s.options.embedded.Text, "domain", s.options.baseDomain, "state", s.dir)
	if err := s.describe(p); err != nil {
		return err
	}
	if err := s.runner.Wait(ctx); err != nil {
		return err
	}
	s.runner.Drain(s.relay) // clients that stay to the end are no failure
	return nil
}

// describe prints what users need to join: the line of --dev, or the pin of a self-signed
// certificate.
func (s *controlService) describe(p cli.Program) error {
	if s.options.dev {
		return s.invite(p)
	}
	if s.options.how != tlsSelfSigned {
		return nil
	}
	_, err := fmt.Fprintf(p.Stdout, "certificate pin: %s\n", s.pin)
	return err
}

// open opens all ports before anybody is served, so that a port that is taken stops the start.
func (s *controlService) open(ctx context.Context) error {
	ln, err := s.openPort(ctx)
	if err != nil {
		return err
	}
	s.runner.CloseLater(func() { ln.Close() })
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
		s.runner.Serve(func() error { return s.relay.ServeSTUN(stun) })
	}
	tlsConf, err := s.tlsConfig(conf)
	if err != nil {
		return err
	}
	if s.options.dev {
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

// newServers makes the coordination server and the relay, which asks the server whether a client
// may connect.
func (s *controlService) newServers(ctx context.Context) (err error) {
	if s.store, err = store.Open(filepath.Join(s.dir, "control.db")); err != nil {
		return err
	}
	s.runner.CloseLater(func() { s.store.Close() })
	if err := s.newRelay(); err != nil {
		return err
	}
	cfg := server.Config{
		Store: s.store, URL: s.site.String(), BaseDomain: s.options.baseDomain, DERPMap: s.derpMap(s.options.relays),
		EphemeralTimeout: s.options.ephemeralTimeout.Value, NodeExpiry: s.options.nodeExpiry.Value,
		Version: s.version, Log: s.log, Revoked: s.relay.Revoke, DNS: s.options.names,
	}
	if s.ctl, err = server.New(cfg); err != nil {
		return err
	}
	s.runner.CloseLater(func() { s.ctl.Close() })
	return s.startPolicy(ctx)
}

// newRelay makes the relay. Nobody uses it before the coordination server exists.
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
	s.runner.CloseLater(func() { s.relay.Close() })
	return nil
}

// openPort opens the port of server and relay. With --dev it takes a free port if the default one
// is taken.
func (s *controlService) openPort(ctx context.Context) (net.Listener, error) {
	addr := s.options.Listen
	if addr == "" {
		addr = devListen
		if s.site != nil {
			addr = siteListen(s.site)
		}
	}
	ln, err := relayserver.Listen(ctx, addr)
	if errors.Is(err, syscall.EADDRINUSE) && s.options.Listen == "" && s.site == nil {
		ln, err = relayserver.Listen(ctx, ":0")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the server's port: %w", err)
	}
	return ln, nil
}

// openSTUN opens the port of the STUN server, or returns nil without one. With --dev it takes a
// free port if the default one is taken.
func (s *controlService) openSTUN() (net.PacketConn, error) {
	s.stun, s.stunPort = "none", -1
	if s.options.STUN == "none" || !s.options.embedded.Value {
		return nil, nil
	}
	addr := s.options.STUN
	if addr == "" {
		addr = s.options.defaultSTUN()
	}
	pc, err := net.ListenPacket("udp", addr)
	if errors.Is(err, syscall.EADDRINUSE) && s.options.STUN == "" {
		pc, err = net.ListenPacket("udp", net.JoinHostPort(hostOf(addr), "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the STUN port: %w", err)
	}
	s.stun = pc.LocalAddr().String()
	s.stunPort = cli.PortNumber(s.stun)
	return pc, nil
}

// servePort serves the relay's paths and the coordination server on one port.
func (s *controlService) servePort(ln net.Listener, conf tlsSettings) {
	mux := http.NewServeMux()
	mux.Handle("/", s.ctl)
	if s.options.embedded.Value {
		for _, path := range []string{"/derp", "/derp/", "/bootstrap-dns", "/robots.txt"} {
			mux.Handle(path, s.relay)
		}
	}
	hs := s.runner.HTTPServer(mux)
	if s.options.how != tlsForRelay {
		s.runner.Serve(func() error { return hs.Serve(s.relay.Listener(ln, conf)) })
		return
	}
	split := service.NewSplitter(ln, s.log)
	s.runner.CloseLater(func() { split.Close() })
	s.runner.Go(split.Run)
	s.runner.Serve(func() error { return hs.Serve(s.relay.Listener(split.TLS, conf)) })
	s.runner.Serve(func() error { return hs.Serve(s.relay.Listener(split.Plain, nil)) })
}

// serveAside serves administration and metrics, which have ports of their own.
func (s *controlService) serveAside() error {
	ln, err := listenAdmin(s.dir)
	if err != nil {
		return err
	}
	s.runner.ServeHTTPOn(ln, s.ctl.AdminHandler())
	all := prometheus.NewRegistry()
	all.MustRegister(s.ctl.Collector(), s.relay.Collector())
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{}))
	return s.runner.ListenHTTP("metrics", s.options.Metrics, mux)
}
