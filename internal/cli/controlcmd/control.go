package controlcmd

import (
	"github.com/spf13/cobra"

	"ginnel/internal/cli"
)

// New returns the command control with its subcommands.
func New(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{
		Use:   "control",
		Short: "Run a coordination server, and administer it",
	}, newControlServe(p), newControlUsers(p), newControlKeys(p), newControlNodes(p), newControlPolicy(p),
		newControlTokens(p))
}

func newControlServe(p cli.Program) *cobra.Command {
	o := newServeOptions()
	cmd := &cobra.Command{
		Use:   "serve --url URL",
		Short: "Run a coordination server with its relay until SIGTERM or SIGINT",
		Long: `serve runs the server of a network, which nodes of this program and tailscaled
join, with a DERP relay on the same port and a STUN server.

An https:// URL needs a certificate: from files (--cert, --key), from Let's
Encrypt (--acme), or from a program in front that terminates TLS (--plain).
Without any of these serve makes a self-signed certificate in the state
directory. Nodes then need it by --ca-file, and stock clients need it in the
system's certificate store. An http:// URL is for loopback and private
addresses. The relay speaks TLS on that port too, and clients trust it by its
pin. If the URL is on loopback, serve listens on loopback only, unless --listen
names another address.

The files of --policy, --cert and --key are read again on SIGHUP and when they
change. A policy with mistakes is logged with line and column, and the old one
stays in force.

--dev needs nothing else: it makes a user and a key, and prints the line with
which another machine joins.`,
		Example: `  ginnel control serve --dev
  ginnel control serve --url https://control.example.com --acme
  ginnel control serve --url https://control.example.com --plain --listen 127.0.0.1:8080
  ginnel control serve --url http://192.168.1.2:8080 --policy policy.hujson`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, p) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}
