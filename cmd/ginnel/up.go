package main

import (
	"github.com/spf13/cobra"
)

// newUp is the command that joins and stays.
func newUp(p program) *cobra.Command {
	f := newNodeFlags("127.0.0.1:1080")
	cmd := &cobra.Command{
		Use:   "up --control URL | --wireguard FILE",
		Short: "Join and serve the proxies until SIGTERM or SIGINT",
		Long: `up joins a network, with no rights at all, and offers it as a SOCKS5 and HTTP
proxy: the network of a coordination server (--control), by a key or by the
approval of somebody there, or the one that a wg-quick file describes. The file
is used as it is; what would change the host (PostUp, Table, FwMark) is left out
with a warning.

Nothing comes in from the mesh unless --serve opens it, and the proxy is open to
this machine alone unless --proxy-auth protects it.`,
		Example: `  ginnel up --control https://mesh.example.com --authkey file:key
  ginnel up --wireguard wg0.conf
  ginnel up --wireguard wg0.conf --proxy 127.0.0.1:8080 -L 5432:db.internal:5432
  ginnel up --wireguard wg0.conf --serve 80=8080 --mesh-only
  GINNEL_WIREGUARD=wg0.conf GINNEL_PROXY=unix:/tmp/mesh.sock ginnel up
  ginnel up --config up.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd, f, p) },
	}
	f.add(cmd.Flags())
	return cmd
}

func runUp(cmd *cobra.Command, f *nodeFlags, p program) error {
	if err := f.check(); err != nil {
		return err
	}
	log := f.log.logger(p.stderr)
	for _, name := range unknownEnvironment(cmd, p) {
		log.Warn("environment variable is not a setting", "name", name)
	}
	n, err := f.start(p, log)
	if err != nil {
		return err
	}
	defer n.close()
	s := n.Status()
	log.Info("up", "addresses", s.Self.Addresses, "proxies", s.Proxies, "peers", len(s.Peers), "udp_port", n.UDPPort())
	if f.control != "" {
		n.wg.Go(func() { n.announce(cmd.Context()) })
	}
	err = n.run(cmd.Context())
	log.Info("down")
	return err
}
