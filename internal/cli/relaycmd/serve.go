package relaycmd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/service"
	"ginnel/internal/cli/statedir"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// New returns the command relay with its subcommand.
func New(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{Use: "relay", Short: "Run a DERP relay"}, newRelayServe(p))
}

func newRelayServe(p cli.Program) *cobra.Command {
	o := new(serveOptions)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a DERP relay and STUN server until SIGTERM or SIGINT",
		Long: `serve runs a DERP relay, compatible with derper, for nodes of this program and for
tailscaled, and a STUN server.

The certificate comes from files (--cert, --key) or from Let's Encrypt (--acme).
Otherwise serve makes a self-signed one, keeps it, and prints its pin, which
clients take as CertName. Files are read again when they change, and on SIGHUP.`,
		Example: `  ginnel relay serve --acme --hostname relay.example.com
  ginnel relay serve --cert relay.pem --key relay.key --metrics 127.0.0.1:9100
  ginnel relay serve --listen :8443 --hostname 192.0.2.1 --http none`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, p) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// relayService is a relay with all its listeners.
type relayService struct {
	options *serveOptions
	log     *slog.Logger
	dir     string
	srv     *relayserver.Server
	mesh    relay.MeshKey
	pin     string // of a self-signed certificate
	addr    string // of the relay, as bound
	stun    string // of the STUN server, as bound, or none

	acme   http.Handler // answers ACME's challenges; nil without ACME
	runner *service.Runner
}

// run serves until the context of the command ends.
func (o *serveOptions) run(cmd *cobra.Command, p cli.Program) error {
	if err := o.check(); err != nil {
		return cli.WithStrayVariables(err, cmd, p)
	}
	s := &relayService{options: o, log: o.Log.Logger(p.Stderr)}
	cli.WarnOfEnvironment(cmd, p, s.log)
	state, err := s.openState(p)
	if err != nil {
		return err
	}
	defer state.Close()
	s.runner = service.New(s.log)
	defer s.runner.Close()
	return s.run(cmd.Context(), p)
}

// run serves until ctx ends or a listener fails.
func (s *relayService) run(ctx context.Context, p cli.Program) error {
	if err := s.newServer(); err != nil {
		return err
	}
	s.runner.CloseLater(func() { s.srv.Close() })
	if err := s.listen(ctx); err != nil {
		return err
	}
	s.runner.WatchFiles(service.Files{Reload: s.reload})
	if err := s.describe(p); err != nil {
		return err
	}
	if err := s.runner.Wait(ctx); err != nil {
		return err
	}
	return s.runner.Drain(s.srv)
}

func (s *relayService) reload() {
	s.log.Info("reading the files again")
	s.srv.ReloadCertificates()
}

func (s *relayService) openState(p cli.Program) (*statedir.Dir, error) {
	s.dir = s.options.State
	if s.dir == "" {
		if s.dir = statedir.DefaultBeside(p, "ginnel-relay"); s.dir == "" {
			return nil, cli.Usagef("--state DIR must be given: neither XDG_STATE_HOME nor HOME is set")
		}
	}
	if s.dir == statedir.Memory {
		return nil, cli.Usagef("--state %s: a relay needs a directory for its keys", statedir.Memory)
	}
	return statedir.Open(s.dir)
}

func (s *relayService) newServer() error {
	key, err := relayserver.LoadKey(filepath.Join(s.dir, "relay.key"))
	if err != nil {
		return err
	}
	if s.options.mesh.key != "" {
		text, err := configs.Secret(s.options.mesh.key)
		if err != nil {
			return cli.Usagef("--mesh-key: %w", err)
		}
		if s.mesh, err = relay.ParseMeshKey(text); err != nil {
			return cli.Usagef("--mesh-key: %w", err)
		}
	}
	s.srv, err = relayserver.New(relayserver.Config{
		Key:             key,
		MeshKey:         s.mesh,
		Log:             s.log,
		MaxClients:      s.options.clients.most,
		AcceptRate:      s.options.accept.rate,
		AcceptBurst:     s.options.accept.burst,
		ClientRate:      s.options.clients.rate.Value,
		ClientBurst:     s.options.clients.burst.Value,
		QueueMemory:     s.options.clients.queueMemory.Value,
		AdmissionURL:    s.options.admission.url,
		AdmissionStrict: s.options.admission.strict,
	})
	return err
}

// listen opens all ports before the relay is said to be up, so that a port that is taken stops the
// start.
func (s *relayService) listen(ctx context.Context) error {
	conf, err := s.tlsConfig()
	if err != nil {
		return err
	}
	ln, err := relayserver.Listen(ctx, s.options.Listen)
	if err != nil {
		return fmt.Errorf("opening the relay's port: %w", err)
	}
	s.runner.Serve(func() error { return s.srv.Serve(ln, conf) })
	s.addr, s.stun = ln.Addr().String(), "none"
	if s.options.STUN != "none" {
		pc, err := net.ListenPacket("udp", s.options.STUN)
		if err != nil {
			return fmt.Errorf("opening the STUN port: %w", err)
		}
		s.runner.Serve(func() error { return s.srv.ServeSTUN(pc) })
		s.stun = pc.LocalAddr().String()
	}
	plain := relayserver.RedirectHandler(cli.PortNumber(s.addr))
	if s.acme != nil {
		plain = s.acme
	}
	if err := s.runner.ListenHTTP("HTTP", s.options.http, plain); err != nil {
		return err
	}
	if err := s.runner.ListenHTTP("metrics", s.options.Metrics, s.srv.MetricsHandler()); err != nil {
		return err
	}
	for _, host := range s.options.mesh.with {
		if err := s.srv.Mesh("https://"+host+"/derp", relay.ClientConfig{}); err != nil {
			return cli.Usagef("--mesh-with %s: %w", host, err)
		}
	}
	return nil
}

// tlsConfig is nil without TLS.
func (s *relayService) tlsConfig() (*tls.Config, error) {
	switch {
	case s.options.Plain:
		return nil, nil
	case s.options.Cert != "":
		return s.options.FileTLS(s.srv, s.log, "hostname", s.options.hostnames...)
	case s.options.ACME:
		m := relayserver.ACME(filepath.Join(s.dir, "acme"), s.options.ACMEEmail, s.options.hostnames...)
		s.acme = m.HTTPHandler(relayserver.RedirectHandler(cli.PortNumber(s.options.Listen)))
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

// hosts are the names on a self-signed certificate.
func (s *relayService) hosts() ([]string, error) {
	if len(s.options.hostnames) > 0 {
		return s.options.hostnames, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding this host's name (--hostname gives one): %w", err)
	}
	return []string{host}, nil
}

// describe prints what a DERP map needs to know about this relay.
func (s *relayService) describe(p cli.Program) error {
	s.log.Info("relay is up", "addr", s.addr, "stun", s.stun, "key", s.srv.PublicKey().String())
	hosts, err := s.hosts()
	if err != nil {
		return err
	}
	n := relay.Node{Name: "900a", RegionID: 900, HostName: hosts[0], CertName: s.pin, DERPPort: cli.PortNumber(s.addr),
		STUNPort: -1}
	if s.stun != "none" {
		n.STUNPort = cli.PortNumber(s.stun)
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if s.pin != "" {
		fmt.Fprintf(p.Stdout, "certificate pin: %s\n", s.pin)
	}
	_, err = fmt.Fprintf(p.Stdout, "DERP map node: %s\n", b)
	return err
}
