package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"ginnel/node"
)

const (
	waitFirstPause = 50 * time.Millisecond // it grows by half
	waitMaxPause   = time.Second
	waitAttempt    = 5 * time.Second // for one attempt
)

func newWait(p program) *cobra.Command {
	var where apiFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait HOST[:PORT]",
		Short: "Wait until an address answers through the mesh",
		Long: `wait returns with exit status 0 as soon as a connection to HOST:PORT can be made
through the running node, or HOST alone answers a ping, and with 3 if that does
not happen in time. The node, too, may still have to be started.`,
		Example: `  ginnel wait db.internal:5432 && make migrate
  ginnel wait --timeout 10s build-host`,
		Args: oneArg("HOST[:PORT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := parseTarget(args[0])
			if err != nil {
				return usageError{err}
			}
			if timeout <= 0 {
				return usagef("--timeout %v: a positive duration is wanted", timeout)
			}
			return waitFor(cmd.Context(), timeout, func(ctx context.Context) error { return where.try(ctx, p, target) })
		},
	}
	where.add(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", readyTimeout, "how long to wait for the answer")
	return cmd
}

// waitFor tries until try succeeds or time is up.
func waitFor(ctx context.Context, timeout time.Duration, try func(ctx context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var why error
	for pause := waitFirstPause; ; pause = min(pause*3/2, waitMaxPause) {
		err := try(limited)
		if _, usage := errors.AsType[usageError](err); err == nil || usage {
			return err
		}
		if why == nil || limited.Err() == nil {
			why = err // and not that time was up
		}
		if sleep(limited, pause) == nil {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", why)
		}
		return &statusError{exitTimeout, fmt.Errorf("no answer after %v: %w", timeout, why)}
	}
}

// try asks for an answer once.
func (f *apiFlags) try(ctx context.Context, p program, target string) error {
	ctx, cancel := context.WithTimeout(ctx, waitAttempt)
	defer cancel()
	a, err := f.open(p)
	if err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(target); err != nil {
		var result node.PingResult
		return a.call(ctx, http.MethodPost, "/api/v1/ping", url.Values{"peer": {target}}, &result)
	}
	t, err := a.connect(ctx, target)
	if err != nil {
		return err
	}
	return t.Close()
}
