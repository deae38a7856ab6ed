package nodecmd

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
)

// NewUp returns the command up.
func NewUp(p cli.Program) *cobra.Command {
	o := &upOptions{nodeOptions: newNodeOptions("127.0.0.1:1080")}
	cmd := &cobra.Command{
		Use:   "up --control URL | --wireguard FILE",
		Short: "Join and serve the proxies until SIGTERM or SIGINT",
		Long: `up joins a network without privileges and offers it as a SOCKS5 and HTTP proxy. The
network is that of a coordination server (--control), which admits the node by a
pre-auth key or by somebody's approval, or the one of a wg-quick file
(--wireguard). Settings of that file that would change the host (PostUp, Table,
FwMark) are ignored with a warning.

--server-key names the key that the coordination server must have, for http:// to
a public address or if the certificate is not enough. It is the publicKey in the
answer to 'curl URL/key?v=130', asked on the server's machine.

Nothing comes in from the mesh unless --serve opens it. The proxy is open to this
machine only, unless --proxy-auth protects it.

With --detach the node continues in the background once the proxy can carry traffic
and each --wait-for has answered. Otherwise nothing is left running, and the exit
status is 3 if that took too long, 4 if the node is not admitted, and 5 if the
coordination server cannot be reached.`,
		Example: `  ginnel up --control https://mesh.example.com --authkey file:key
  ginnel up --wireguard wg0.conf
  ginnel up --wireguard wg0.conf --proxy 127.0.0.1:8080 -L 5432:db.internal:5432
  ginnel up --wireguard wg0.conf --serve 80=8080 --mesh-only
  GINNEL_WIREGUARD=wg0.conf GINNEL_PROXY=unix:/tmp/mesh.sock ginnel up
  ginnel up --config up.yaml
  eval "$(ginnel up --control https://mesh.example.com --detach --env)"; ginnel down`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, p) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// run runs the node, in this process or in the background.
func (o *upOptions) run(cmd *cobra.Command, p cli.Program) error {
	if err := errors.Join(o.nodeOptions.check(), o.checkDetach()); err != nil {
		return cli.WithStrayVariables(err, cmd, p)
	}
	report := newReporter(p)
	if o.detach && !report.inBackground() {
		return o.runDetached(cmd, p)
	}
	err := o.runForeground(cmd, report, p)
	if err != nil {
		report.end(news{Error: err.Error()})
	}
	return err
}

// runForeground runs the node in this process.
func (o *upOptions) runForeground(cmd *cobra.Command, report reporter, p cli.Program) error {
	log := o.log.Logger(p.Stderr)
	cli.AdviseSecrets(cmd.Flags(), log)
	cli.WarnOfEnvironment(cmd, p, log)
	timeout := time.Duration(0) // a node that nobody waits for may take as long as it likes
	if cmd.Flags().Changed("timeout") || report.inBackground() {
		timeout = o.timeout
	}
	if report.inBackground() {
		o.showLogin = func(url string) { report.tell(news{Login: url}) }
	}
	n, err := o.start(p, log)
	if err != nil {
		return err
	}
	s := n.Status()
	log.Info("node up", "addresses", s.Self.Addresses, "proxies", s.Proxies, "peers", len(s.Peers), "udp_port",
		n.UDPPort())
	err = o.serve(cmd.Context(), n, timeout, report)
	n.close()
	log.Info("node down")
	return err
}

// serve runs the node to its end.
func (o *upOptions) serve(ctx context.Context, n *runningNode, timeout time.Duration, report reporter) error {
	switch err := n.awaitReady(ctx, timeout); {
	case errors.Is(err, errToldToEnd):
		return nil
	case err != nil:
		return err
	}
	s := n.Status()
	if o.join.url != "" {
		n.log.Info("node joined", "name", s.Self.Name, "addresses", s.Self.Addresses, "peers", len(s.Peers), "relay",
			s.Self.Relay)
	}
	report.end(news{Ready: true, Proxies: s.Proxies})
	return n.await(ctx)
}
