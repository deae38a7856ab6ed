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
		Long: `serve runs the server that nodes of a network join, this program's and tailscaled
alike, with a DERP relay on the same port and a STUN server beside it.

An https:// URL wants a certificate: from files (--cert, --key), from Let's
Encrypt (--acme), or of something in front that passes on plain HTTP (--plain).
Without any of these it is self-signed; then each node needs the certificate in
the state directory (--ca-file), and stock clients in their system's store of
trusted ones. An http:// URL is for loopback and private addresses; the relay
speaks TLS on that port all the same, trusted by its pin. With a URL on loopback
nothing else is listened on unless --listen says so.

The policy file is read again on SIGHUP and when it changes, and so are --cert and
--key. A policy with mistakes is logged with line and column, and changes nothing.

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
