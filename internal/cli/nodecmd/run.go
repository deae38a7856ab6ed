package nodecmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/proxyenv"
	"ginnel/internal/cli/statedir"
)

// freeProxy lets the system choose where run's proxy listens.
const freeProxy = "127.0.0.1:0"

// proxyUser is the user name for run's proxy, whose password is random.
const proxyUser = "ginnel"

// NewRun returns the command run.
func NewRun(p cli.Program) *cobra.Command {
	o := &runOptions{newNodeOptions(freeProxy)}
	cmd := &cobra.Command{
		Use:   "run --control URL | --wireguard FILE [--wait-for HOST[:PORT]]... -- CMD [ARG]...",
		Short: "Join, run a command behind the proxy, and leave",
		Long: `run joins a network as an ephemeral node, opens a proxy on a free port with a
random password, and waits until the mesh is usable and each --wait-for answers.
Then it runs CMD with the variables that lead programs to the proxy: http_proxy,
https_proxy, all_proxy, grpc_proxy and no_proxy, in small letters and capitals, and
those that npm, Node.js and git over SSH read. GINNEL_PROXY is the URL for programs
that speak SOCKS. A JVM takes no password from its environment, so on Linux
JAVA_TOOL_OPTIONS names a second port on loopback. It asks programs of the same
user for no password and admits no others. Entries of no_proxy are kept.

CMD gets input, output and signals unchanged, and its exit status becomes that of
run: 128 plus the number of the signal that killed it, 127 if there is no such
command, 126 if it cannot be run. Then the node leaves its network. It leaves
nothing behind, whichever way it ends.

Nothing is run, and the exit status is 3, if the mesh is not ready in time, 4 if
the node is not let in, and 5 if the coordination server cannot be reached.`,
		Example: `  ginnel run --control https://mesh.example.com --authkey file:key -- curl http://db.internal:8080/
  ginnel run --wireguard wg0.conf --wait-for db:5432 --timeout 20s -- make integration-test
  GINNEL_CONTROL=https://mesh.example.com GINNEL_AUTHKEY=file:key ginnel run ./job.sh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Usagef("%s: the command to run is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, p, args) },
	}
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	o.addFlags(fs)
	o.log.Level.Text, o.log.Level.Value = "warn", slog.LevelWarn // the output is CMD's
	fs.Lookup("log-level").DefValue = "warn"
	o.join.ephemeral = true
	fs.Lookup("ephemeral").DefValue = "true"
	return cmd
}

// runOptions are the flags of run.
type runOptions struct{ *nodeOptions }

// run runs a command behind the proxy of a node.
func (o *runOptions) run(cmd *cobra.Command, p cli.Program, args []string) error {
	if o.wireguard != "" && !cmd.Flags().Changed("ephemeral") {
		o.join.ephemeral = false // there is no server to forget it
	}
	if err := o.check(); err != nil {
		return cli.WithStrayVariables(err, cmd, p)
	}
	if o.state == "" && (o.join.ephemeral || o.wireguard != "") {
		o.state = statedir.Memory
	}
	if !slices.ContainsFunc(o.local.proxies.Values, func(a configs.Address) bool { return a.Network() == "tcp" }) {
		o.local.proxies.Set(freeProxy) // the variables cannot name another kind
	}
	if o.local.proxyAuth.Value == (configs.ProxyAuth{}) {
		o.local.proxyAuth.Value = configs.ProxyAuth{User: proxyUser, Password: randomPassword()}
	}
	o.local.userProxy = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	c, err := newChild(p, args)
	if err != nil {
		return err
	}
	defer c.stopSignals()
	log := o.log.Logger(p.Stderr)
	cli.AdviseSecrets(cmd.Flags(), log)
	cli.WarnOfEnvironment(cmd, p, log)
	n, err := o.start(p, log)
	if err != nil {
		return err
	}
	defer n.close()
	if err := o.joinFor(cmd.Context(), n, c); err != nil {
		return err
	}
	proxy, ok := proxyenv.Reachable(n.Status().Proxies)
	if !ok {
		return errors.New("the node has no proxy that a command could use")
	}
	access := proxyenv.Access{HostPort: proxy, Auth: o.local.proxyAuth.Value}
	if a := n.UserProxyAddr(); a != nil {
		access.Open = a.String()
	}
	c.cmd.Env = proxyenv.With(withoutSecrets(p.Environ()), proxyenv.Variables(access, p))
	return c.run(n)
}

// withoutSecrets leaves out the secrets of this program, with which the command could join by
// itself.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == cli.EnvName("authkey") || name == cli.EnvName("proxy-auth")
	})
}

// joinFor waits until the mesh is ready for the child.
func (o *runOptions) joinFor(ctx context.Context, n *runningNode, c *child) error {
	err := n.awaitReady(ctx, o.timeout)
	if err == nil && ctx.Err() != nil {
		err = errToldToEnd
	}
	if !errors.Is(err, errToldToEnd) {
		return err
	}
	status := cli.ExitFailure
	if s, ok := c.firstEnding(); ok {
		status = signalStatus(s)
	}
	return cli.WithStatus(status, fmt.Errorf("told to end before %s was started", c.name))
}

// signalStatus returns the exit status that shells report for a process that a signal has killed.
func signalStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return cli.ExitFailure
}
