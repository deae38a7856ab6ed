package nodecmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/internal/cli/statedir"
	"ginnel/internal/egress"
	"ginnel/node"
)

// logoutPatience bounds the time for the answer of the server if no node runs.
const logoutPatience = 10 * time.Second

// NewLogout returns the command logout.
func NewLogout(p cli.Program) *cobra.Command {
	var o logoutOptions
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Give up the node's registration and delete its keys",
		Long: `logout stops the node on the state directory if it runs, has the coordination
server end its registration, and deletes the keys. The next 'ginnel up' joins as a
new node. If the server cannot be reached, the keys stay, and the exit status is 5.`,
		Example: `  ginnel logout
  ginnel logout --state /var/lib/ginnel`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), p) },
	}
	o.which.add(cmd.Flags())
	cmd.Flags().StringVar(&o.caFile, "ca-file", "", "`file` with further roots of trust for the server, PEM")
	return cmd
}

// logoutOptions say which node gives up its registration.
type logoutOptions struct {
	which  ownNode
	caFile string
}

func (o *logoutOptions) run(ctx context.Context, p cli.Program) error {
	dir := o.which.dir(p)
	if statedir.IsLocked(dir) {
		return logoutRunning(ctx, dir)
	}
	return o.logoutStopped(ctx, p, dir)
}

// logoutRunning tells the running node to log out and end, and then deletes its keys.
func logoutRunning(ctx context.Context, dir string) error {
	err := endNode(ctx, dir, url.Values{"logout": {"true"}})
	if e, ok := errors.AsType[*nodeapi.Error](err); ok && e.Status == http.StatusGatewayTimeout {
		return cli.WithStatus(cli.ExitControl, err)
	}
	if err != nil {
		return err
	}
	d := &statedir.Dir{Path: dir}
	return d.ForgetIdentity()
}

// logoutStopped logs a node out that does not run.
func (o *logoutOptions) logoutStopped(ctx context.Context, p cli.Program, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || dir == "" {
		return noRegistration(dir)
	}
	d, err := statedir.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	id, err := d.LoadIdentity()
	if err != nil {
		return err
	}
	if id.Machine.IsZero() || id.URL == "" {
		return noRegistration(dir)
	}
	roots, err := rootsWith(o.caFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutPatience)
	defer cancel()
	cfg := node.Config{Control: &node.Control{URL: id.URL, Identity: id}, Version: p.BuildVersion(), Roots: roots,
		OutboundProxy: egress.FromEnvironment(p.Getenv)}
	if err := node.GiveUp(ctx, cfg); err != nil {
		err = fmt.Errorf("giving up the registration with %s: %w", id.URL, err)
		if errors.Is(err, node.ErrControlUnreachable) || errors.Is(err, context.DeadlineExceeded) {
			return cli.WithStatus(cli.ExitControl, err)
		}
		return err
	}
	return d.ForgetIdentity()
}

func noRegistration(dir string) error {
	return fmt.Errorf("the state directory %s holds no registration", dir)
}
