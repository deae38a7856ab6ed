package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"ginnel/configs"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// drainTime is how long a relay that is told to end waits for its clients to be told.
const drainTime = 5 * time.Second

func newRelay(p program) *cobra.Command {
	return commandGroup(&cobra.Command{Use: "relay", Short: "Run a DERP relay"}, newRelayServe(p))
}

func newRelayServe(p program) *cobra.Command {
	f := new(relayFlags)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a DERP relay and STUN server until SIGTERM or SIGINT",
		Long: `serve runs a relay that speaks what derper speaks, for this program's nodes and
for tailscaled alike, and a STUN server.

The certificate comes from files (--cert, --key), from Let's Encrypt (--acme), or
is made here and kept; then its pin is printed, which clients take as CertName.
Files are read again when they change, and on SIGHUP.`,
		Example: `  ginnel relay serve --acme --hostname relay.example.com
  ginnel relay serve --cert relay.pem --key relay.key --metrics 127.0.0.1:9100
  ginnel relay serve --listen :8443 --hostname 192.0.2.1 --http none`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRelay(cmd, f, p) },
	}
	f.add(cmd.Flags())
	return cmd
}

// relayService is a relay with all its listeners.
type relayService struct {
	f    *relayFlags
	log  *slog.Logger
	dir  string
	srv  *relayserver.Server
	mesh relay.MeshKey
	pin  string // of a self-signed certificate
	addr string // of the relay, as bound
	stun string // of the STUN server, as bound, or none

	acme      http.Handler // answers ACME's challenges; nil without ACME
	wg        sync.WaitGroup
	failed    chan error     // has room for all listeners
	plainHTTP []*http.Server // those without TLS: ACME and redirects, metrics
}

func runRelay(cmd *cobra.Command, f *relayFlags, p program) error {
	if err := f.check(); err != nil {
		return withStrayVariables(err, cmd, p)
	}
	ctx := cmd.Context()
	hup, forget := hangUps()
	defer forget()
	s := &relayService{f: f, log: f.log.logger(p.stderr), failed: make(chan error, 8)}
	warnOfEnvironment(cmd, p, s.log)
	state, err := s.openState(p)
	if err != nil {
		return err
	}
	defer state.close()
	if err := s.newServer(); err != nil {
		return err
	}
	defer s.close()
	if err := s.listen(ctx); err != nil {
		return err
	}
	if err := s.describe(p); err != nil {
		return err
	}
	if err := s.wait(ctx, hup); err != nil {
		return err
	}
	s.log.Info("draining")
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return s.srv.Shutdown(drain)
}

// wait returns when ctx ends or a listener fails. On SIGHUP the certificate is read again.
func (s *relayService) wait(ctx context.Context, hup <-chan os.Signal) error {
	for {
		select {
		case err := <-s.failed:
			return err
		case <-hup:
			s.log.Info("reading the files again")
			s.srv.ReloadCertificates()
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *relayService) openState(p program) (*stateDir, error) {
	s.dir = s.f.state
	if s.dir == "" {
		if s.dir = defaultState(p); s.dir == "" {
			return nil, usagef("--state DIR must be given: neither XDG_STATE_HOME nor HOME is set")
		}
		s.dir = filepath.Join(filepath.Dir(s.dir), "ginnel-relay")
	}
	if s.dir == memState {
		return nil, usagef("--state %s: a relay needs a directory for its keys", memState)
	}
	return openState(s.dir)
}

func (s *relayService) newServer() error {
	key, err := relayserver.LoadKey(filepath.Join(s.dir, "relay.key"))
	if err != nil {
		return err
	}
	if s.f.meshKey != "" {
		text, err := configs.Secret(s.f.meshKey)
		if err != nil {
			return usagef("--mesh-key: %w", err)
		}
		if s.mesh, err = relay.ParseMeshKey(text); err != nil {
			return usagef("--mesh-key: %w", err)
		}
	}
	s.srv, err = relayserver.New(relayserver.Config{
		Key:             key,
		MeshKey:         s.mesh,
		Log:             s.log,
		MaxClients:      s.f.maxClients,
		AcceptRate:      s.f.acceptRate,
		AcceptBurst:     s.f.acceptBurst,
		ClientRate:      s.f.clientRate.value,
		ClientBurst:     s.f.clientBurst.value,
		QueueMemory:     s.f.queueMemory.value,
		AdmissionURL:    s.f.admissionURL,
		AdmissionStrict: s.f.admissionStrict,
	})
	return err
}

// listen opens everything, so that a port that is taken is found before anything is said to run.
func (s *relayService) listen(ctx context.Context) error {
	conf, err := s.tlsConfig()
	if err != nil {
		return err
	}
	ln, err := relayserver.Listen(ctx, s.f.listen)
	if err != nil {
		return fmt.Errorf("opening the relay's port: %w", err)
	}
	s.serve(func() error { return s.srv.Serve(ln, conf) })
	s.addr, s.stun = ln.Addr().String(), "none"
	if s.f.stun != "none" {
		pc, err := net.ListenPacket("udp", s.f.stun)
		if err != nil {
			return fmt.Errorf("opening the STUN port: %w", err)
		}
		s.serve(func() error { return s.srv.ServeSTUN(pc) })
		s.stun = pc.LocalAddr().String()
	}
	plain := relayserver.RedirectHandler(portNumber(s.addr))
	if s.acme != nil {
		plain = s.acme
	}
	if err := s.listenHTTP("HTTP", s.f.http, plain); err != nil {
		return err
	}
	if err := s.listenHTTP("metrics", s.f.metrics, s.srv.MetricsHandler()); err != nil {
		return err
	}
	for _, host := range s.f.meshWith {
		if err := s.srv.Mesh("https://"+host+"/derp", relay.ClientConfig{}); err != nil {
			return usagef("--mesh-with %s: %w", host, err)
		}
	}
	return nil
}

// listenHTTP serves h at addr unless that is empty or none. what names the port in errors and in
// the log.
func (s *relayService) listenHTTP(what, addr string, h http.Handler) error {
	if addr == "" || addr == "none" {
		return nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("opening the %s port: %w", what, err)
	}
	hs := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	s.plainHTTP = append(s.plainHTTP, hs)
	s.serve(func() error { return hs.Serve(ln) })
	s.log.Info("listening", "for", what, "addr", ln.Addr())
	return nil
}

// serve runs f until the service is closed; an end before that ends the service.
func (s *relayService) serve(f func() error) {
	s.wg.Go(func() { s.serveUntilClosed(f) })
}

func (s *relayService) serveUntilClosed(f func() error) {
	if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		s.failed <- err
	}
}

func (s *relayService) close() {
	for _, hs := range s.plainHTTP {
		hs.Close()
	}
	s.srv.Close()
	s.wg.Wait()
}

// tlsConfig is nil without TLS.
func (s *relayService) tlsConfig() (*tls.Config, error) {
	switch {
	case s.f.plain:
		return nil, nil
	case s.f.cert != "":
		conf, err := s.srv.FileTLS(s.f.cert, s.f.key)
		if err != nil {
			return nil, usageError{err}
		}
		s.warnOfCertificate()
		return s.srv.TLSConfig(conf), nil
	case s.f.acme:
		m := relayserver.ACME(filepath.Join(s.dir, "acme"), s.f.acmeEmail, s.f.hostnames...)
		s.acme = m.HTTPHandler(relayserver.RedirectHandler(portNumber(s.f.listen)))
		return s.srv.TLSConfig(m.TLSConfig()), nil
	}
	hosts, err := s.hosts()
	if err != nil {
		return nil, err
	}
	conf, pin, err := relayserver.SelfSignedTLS(s.dir, hosts...)
	if err != nil {
		return nil, err
	}
	s.pin = pin
	return s.srv.TLSConfig(conf), nil
}

// warnOfCertificate says what clients will not like about the certificate in the files.
func (s *relayService) warnOfCertificate() {
	cert, err := tls.LoadX509KeyPair(s.f.cert, s.f.key)
	if err != nil {
		return // it was good a moment ago
	}
	if now := time.Now(); now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
		s.log.Warn("the certificate is not valid now; clients will refuse it", "file", s.f.cert,
			"not_before", cert.Leaf.NotBefore, "not_after", cert.Leaf.NotAfter)
	}
	for _, h := range s.f.hostnames {
		if err := cert.Leaf.VerifyHostname(h); err != nil {
			s.log.Warn("the certificate is not for --hostname; clients that go there will refuse it", "file", s.f.cert, "err", err)
		}
	}
}

// hosts are the names on a self-signed certificate.
func (s *relayService) hosts() ([]string, error) {
	if len(s.f.hostnames) > 0 {
		return s.f.hostnames, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding this host's name (--hostname gives one): %w", err)
	}
	return []string{host}, nil
}

// describe prints what a DERP map needs to know of this relay.
func (s *relayService) describe(p program) error {
	s.log.Info("relay is up", "addr", s.addr, "stun", s.stun, "key", s.srv.PublicKey().String())
	hosts, err := s.hosts()
	if err != nil {
		return err
	}
	n := relay.Node{Name: "900a", RegionID: 900, HostName: hosts[0], CertName: s.pin, DERPPort: portNumber(s.addr), STUNPort: -1}
	if s.stun != "none" {
		n.STUNPort = portNumber(s.stun)
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if s.pin != "" {
		fmt.Fprintf(p.stdout, "certificate pin: %s\n", s.pin)
	}
	_, err = fmt.Fprintf(p.stdout, "DERP map node: %s\n", b)
	return err
}

func portNumber(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port)
	return n
}
