package nodecmd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
)

const (
	waitFirstPause = 50 * time.Millisecond // grows by half each time
	waitMaxPause   = time.Second
	waitAttempt    = 5 * time.Second        // for one attempt
	waitLeast      = 100 * time.Millisecond // the shortest time in which an attempt is worthwhile
	waitGrace      = time.Second            // for the answer of the node
)

// NewWait returns the command wait.
func NewWait(p cli.Program) *cobra.Command {
	var o waitOptions
	cmd := &cobra.Command{
		Use:   "wait HOST[:PORT]",
		Short: "Wait until an address answers through the mesh",
		Long: `wait exits with status 0 as soon as a connection to HOST:PORT can be made through
the running node, or HOST alone answers a ping. If that does not happen in time,
it exits with 3 and names the broken step, as 'ginnel why' does. The node may be
started after wait.`,
		Example: `  ginnel wait db.internal:5432 && make migrate
  ginnel wait --timeout 10s build-host`,
		Args: cli.OneArg("HOST[:PORT]"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), p, args[0]) },
	}
	o.where.Add(cmd.Flags())
	cmd.Flags().DurationVar(&o.timeout, "timeout", readyTimeout, "how long to wait for the answer")
	return cmd
}

// waitOptions say which address is awaited and for how long.
type waitOptions struct {
	where   nodeapi.Flags
	timeout time.Duration
}

func (o *waitOptions) run(ctx context.Context, p cli.Program, text string) error {
	target, err := cli.ParseTarget(text)
	if err != nil {
		return cli.Usage(err)
	}
	if o.timeout <= 0 {
		return cli.Usagef("--timeout %v: want a positive duration", o.timeout)
	}
	err = waitFor(ctx, o.timeout, func(ctx context.Context, patience time.Duration) error {
		return o.try(ctx, p, target, patience)
	})
	return o.explained(ctx, p, target, err)
}

// waitFor calls try until it succeeds or timeout has passed. An attempt may take a little longer
// than its patience.
func waitFor(ctx context.Context, timeout time.Duration,
	try func(ctx context.Context, patience time.Duration) error) error {
	end := time.Now().Add(timeout)
	var why error
	for pause := waitFirstPause; ; pause = min(pause*3/2, waitMaxPause) {
		left := time.Until(end)
		if why != nil && left < waitLeast {
			return cli.WithStatus(cli.ExitTimeout, fmt.Errorf("no answer after %v: %w", timeout, why))
		}
		err := try(ctx, min(left, waitAttempt))
		if err == nil || cli.IsUsage(err) {
			return err
		}
		if ctx.Err() == nil || why == nil {
			why = err
		}
		if cli.Sleep(ctx, min(pause, time.Until(end))) != nil {
			return fmt.Errorf("interrupted: %w", why)
		}
	}
}

// try asks the node once whether target answers.
func (o *waitOptions) try(ctx context.Context, p cli.Program, target string, patience time.Duration) error {
	a, err := o.where.Open(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience+waitGrace)
	defer cancel()
	var none struct{}
	return a.Call(ctx, http.MethodPost, "/api/v1/reach", url.Values{"target": {target}, "timeout": {patience.String()}},
		&none)
}

// explained adds the node's verdict to err if that is a timeout.
func (o *waitOptions) explained(ctx context.Context, p cli.Program, target string, err error) error {
	if cli.ExitStatus(err) != cli.ExitTimeout || ctx.Err() != nil {
		return err
	}
	a, openErr := o.where.Open(p)
	if openErr != nil {
		return err
	}
	v, askErr := a.Why(ctx, target, whyPatience)
	if askErr != nil {
		return err
	}
	return cli.WithStatus(cli.ExitTimeout, withVerdict(errors.Unwrap(err), v))
}
