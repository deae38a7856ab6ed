package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// newUp is the command that joins and stays.
func newUp(p program) *cobra.Command {
	f := newNodeFlags("127.0.0.1:1080")
	var u upFlags
	cmd := &cobra.Command{
		Use:   "up --control URL | --wireguard FILE",
		Short: "Join and serve the proxies until SIGTERM or SIGINT",
		Long: `up joins a network, with no rights at all, and offers it as a SOCKS5 and HTTP
proxy: the network of a coordination server (--control), by a key or by the
approval of somebody there, or the one that a wg-quick file describes. The file
is used as it is; what would change the host (PostUp, Table, FwMark) is left out
with a warning.

Over http:// to a public address, and wherever the server's own key matters more
than its certificate, --server-key names the key that the server must have: the
publicKey in the answer to 'curl URL/key?v=130' on the server's machine.

Nothing comes in from the mesh unless --serve opens it, and the proxy is open to
this machine alone unless --proxy-auth protects it.

With --detach it goes on in the background once the proxy can carry traffic and
each --wait-for has answered. If that is not so in time the exit status is 3, 4 if
the node is not let in, 5 if the coordination server cannot be reached, and nothing
is left running.`,
		Example: `  ginnel up --control https://mesh.example.com --authkey file:key
  ginnel up --wireguard wg0.conf
  ginnel up --wireguard wg0.conf --proxy 127.0.0.1:8080 -L 5432:db.internal:5432
  ginnel up --wireguard wg0.conf --serve 80=8080 --mesh-only
  GINNEL_WIREGUARD=wg0.conf GINNEL_PROXY=unix:/tmp/mesh.sock ginnel up
  ginnel up --config up.yaml
  eval "$(ginnel up --control https://mesh.example.com --detach --env)"; ginnel down`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd, f, &u, p) },
	}
	f.add(cmd.Flags())
	u.add(cmd.Flags())
	return cmd
}

func runUp(cmd *cobra.Command, f *nodeFlags, u *upFlags, p program) error {
	if err := errors.Join(f.check(), u.check(f)); err != nil {
		return withStrayVariables(err, cmd, p)
	}
	report := newReporter(p)
	if u.detach && !report.inBackground() {
		return detach(cmd, f, u, p)
	}
	err := runForeground(cmd, f, report, p)
	if err != nil {
		report.end(news{Error: err.Error()})
	}
	return err
}

// runForeground runs the node in this process.
func runForeground(cmd *cobra.Command, f *nodeFlags, report reporter, p program) error {
	log := f.log.logger(p.stderr)
	adviseSecrets(cmd.Flags(), log)
	warnOfEnvironment(cmd, p, log)
	timeout := time.Duration(0) // a node that nobody waits for may take as long as it likes
	if cmd.Flags().Changed("timeout") || report.inBackground() {
		timeout = f.timeout
	}
	if report.inBackground() {
		f.showLogin = func(url string) { report.tell(news{Login: url}) }
	}
	n, err := f.start(p, log)
	if err != nil {
		return err
	}
	s := n.Status()
	log.Info("node up", "addresses", s.Self.Addresses, "proxies", s.Proxies, "peers", len(s.Peers), "udp_port", n.UDPPort())
	err = serveUp(cmd.Context(), f, n, timeout, report)
	n.close()
	log.Info("node down")
	return err
}

// serveUp runs the node to its end.
func serveUp(ctx context.Context, f *nodeFlags, n *runningNode, timeout time.Duration, report reporter) error {
	switch err := n.awaitReady(ctx, timeout); {
	case errors.Is(err, errToldToEnd):
		return nil
	case err != nil:
		return err
	}
	s := n.Status()
	if f.control != "" {
		n.log.Info("node joined", "name", s.Self.Name, "addresses", s.Self.Addresses, "peers", len(s.Peers), "relay", s.Self.Relay)
	}
	report.end(news{Ready: true, Proxies: s.Proxies})
	return n.await(ctx)
}
