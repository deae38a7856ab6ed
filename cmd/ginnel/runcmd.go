package main

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
)

// freeProxy lets the system choose where run's proxy listens.
const freeProxy = "127.0.0.1:0"

// proxyUser is whom the random password of run's proxy belongs to.
const proxyUser = "ginnel"

// newRun is the command that joins for the time of another.
func newRun(p program) *cobra.Command {
	f := newNodeFlags(freeProxy)
	cmd := &cobra.Command{
		Use:   "run --control URL | --wireguard FILE [--wait-for HOST[:PORT]]... -- CMD [ARG]...",
		Short: "Join, run a command behind the proxy, and leave",
		Long: `run joins a network as an ephemeral node, opens a proxy on a free port with a
random password, waits until the mesh is usable and each --wait-for answers, and
runs CMD with http_proxy, https_proxy, all_proxy, grpc_proxy and no_proxy set to
it, in small letters and capitals, and what npm, Node.js and git over SSH read.
GINNEL_PROXY is its URL for what speaks SOCKS. A JVM cannot be told a password by
its environment: on Linux JAVA_TOOL_OPTIONS leads it to a second port on loopback,
which asks programs of the same user for no password and admits no others.
What no_proxy exempts stays exempt.

Input, output and signals go to CMD as they are, and its exit status is run's: 128
and the signal's number if it died by one, 127 if there is no such command, 126 if
it cannot be run. Then the node leaves its network; it leaves nothing behind,
whichever way it ends.

Nothing is run, and the exit status is 3, if the mesh is not ready in time, 4 if
the node is not let in, and 5 if the coordination server cannot be reached.`,
		Example: `  ginnel run --control https://mesh.example.com --authkey file:key -- curl http://db.internal:8080/
  ginnel run --wireguard wg0.conf --wait-for db:5432 --timeout 20s -- make integration-test
  GINNEL_CONTROL=https://mesh.example.com GINNEL_AUTHKEY=file:key ginnel run ./job.sh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s: the command to run is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runRun(cmd, f, p, args) },
	}
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	f.add(fs)
	f.log.level.text, f.log.level.value = "warn", slog.LevelWarn // the output is CMD's
	fs.Lookup("log-level").DefValue = "warn"
	f.ephemeral = true
	fs.Lookup("ephemeral").DefValue = "true"
	return cmd
}

func runRun(cmd *cobra.Command, f *nodeFlags, p program, args []string) error {
	if f.wireguard != "" && !cmd.Flags().Changed("ephemeral") {
		f.ephemeral = false // there is no server to forget it
	}
	if err := f.check(); err != nil {
		return withStrayVariables(err, cmd, p)
	}
	if f.state == "" && (f.ephemeral || f.wireguard != "") {
		f.state = memState
	}
	if !slices.ContainsFunc(f.proxies.values, func(a configs.Address) bool { return a.Network() == "tcp" }) {
		f.proxies.Set(freeProxy) // the variables cannot name another kind
	}
	if f.proxyAuth.value == (configs.ProxyAuth{}) {
		f.proxyAuth.value = configs.ProxyAuth{User: proxyUser, Password: randomPassword()}
	}
	f.userProxy = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	c, err := newChild(p, args)
	if err != nil {
		return err
	}
	defer c.stopSignals()
	log := f.log.logger(p.stderr)
	adviseSecrets(cmd.Flags(), log)
	warnOfEnvironment(cmd, p, log)
	n, err := f.start(p, log)
	if err != nil {
		return err
	}
	defer n.close()
	if err := joinFor(cmd.Context(), f, n, c); err != nil {
		return err
	}
	proxy, ok := reachableProxy(n.Status().Proxies)
	if !ok {
		return errors.New("the node has no proxy that a command could use")
	}
	access := proxyAccess{hostPort: proxy, auth: f.proxyAuth.value}
	if a := n.UserProxyAddr(); a != nil {
		access.open = a.String()
	}
	c.cmd.Env = withVariables(withoutSecrets(p.environ()), proxyVariables(access, p))
	return c.run(n)
}

// withoutSecrets leaves out what is for this program alone: a command need not be able to join by
// itself.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == envName("authkey") || name == envName("proxy-auth")
	})
}

// joinFor waits until the mesh is ready for the child.
func joinFor(ctx context.Context, f *nodeFlags, n *runningNode, c *child) error {
	err := n.awaitReady(ctx, f.timeout)
	if err == nil && ctx.Err() != nil {
		err = errToldToEnd
	}
	if !errors.Is(err, errToldToEnd) {
		return err
	}
	status := exitFailure
	if s, ok := c.firstEnding(); ok {
		status = signalStatus(s)
	}
	return &statusError{status, fmt.Errorf("told to end before %s was started", c.name)}
}

// signalStatus is the exit status of what has died by a signal, as shells report it.
func signalStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return exitFailure
}
