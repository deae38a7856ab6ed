package main

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

	"ginnel/internal/egress"
	"ginnel/node"
)

// logoutPatience is for the server's answer where no node runs.
const logoutPatience = 10 * time.Second

func newLogout(p program) *cobra.Command {
	var which ownNode
	var caFile string
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Give up the node's registration and delete its keys",
		Long: `logout stops the node on the state directory if it runs, has the coordination
server end its registration, and deletes the keys. The next 'ginnel up' joins as a
new node. If the server cannot be reached, the keys stay, and the exit status is 5.`,
		Example: `  ginnel logout
  ginnel logout --state /var/lib/ginnel`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := which.dir(p)
			if isLocked(dir) {
				return logoutRunning(cmd.Context(), dir)
			}
			return logoutStopped(cmd.Context(), p, dir, caFile)
		},
	}
	which.add(cmd.Flags())
	cmd.Flags().StringVar(&caFile, "ca-file", "", "`file` with further roots of trust for the server, PEM")
	return cmd
}

// logoutRunning has the running node do it.
func logoutRunning(ctx context.Context, dir string) error {
	err := endNode(ctx, dir, url.Values{"logout": {"true"}})
	if e, ok := errors.AsType[*nodeError](err); ok && e.status == http.StatusGatewayTimeout {
		return &statusError{exitControl, err}
	}
	if err != nil {
		return err
	}
	d := &stateDir{path: dir}
	return d.forgetIdentity()
}

// logoutStopped does it for a node that does not run.
func logoutStopped(ctx context.Context, p program, dir, caFile string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || dir == "" {
		return noRegistration(dir)
	}
	d, err := openState(dir)
	if err != nil {
		return err
	}
	defer d.close()
	id, err := d.loadIdentity()
	if err != nil {
		return err
	}
	if id.Machine.IsZero() || id.URL == "" {
		return noRegistration(dir)
	}
	roots, err := (&nodeFlags{caFile: caFile}).roots()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutPatience)
	defer cancel()
	cfg := node.Config{Control: &node.Control{URL: id.URL, Identity: id}, Version: buildVersion(), Roots: roots,
		OutboundProxy: egress.FromEnvironment(p.getenv)}
	if err := node.GiveUp(ctx, cfg); err != nil {
		err = fmt.Errorf("giving up the registration with %s: %w", id.URL, err)
		if errors.Is(err, node.ErrControlUnreachable) || errors.Is(err, context.DeadlineExceeded) {
			return &statusError{exitControl, err}
		}
		return err
	}
	return d.forgetIdentity()
}

func noRegistration(dir string) error {
	return fmt.Errorf("the state directory %s holds no registration", dir)
}
