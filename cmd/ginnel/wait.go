package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

const (
	waitFirstPause = 50 * time.Millisecond // it grows by half
	waitMaxPause   = time.Second
	waitAttempt    = 5 * time.Second        // for one attempt
	waitLeast      = 100 * time.Millisecond // for an attempt that can still tell something new
	waitGrace      = time.Second            // for the node to say what has become of it
)

func newWait(p program) *cobra.Command {
	var where apiFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait HOST[:PORT]",
		Short: "Wait until an address answers through the mesh",
		Long: `wait returns with exit status 0 as soon as a connection to HOST:PORT can be made
through the running node, or HOST alone answers a ping, and with 3 if that does
not happen in time: then it says which step on the way is broken, as 'ginnel why'
does. The node, too, may still have to be started.`,
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
			err = waitFor(cmd.Context(), timeout, func(ctx context.Context, patience time.Duration) error { return where.try(ctx, p, target, patience) })
			return where.explained(cmd.Context(), p, target, err)
		},
	}
	where.add(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", readyTimeout, "how long to wait for the answer")
	return cmd
}

// waitFor tries until try succeeds or time is up. An attempt may take a little longer than it was
// given.
func waitFor(ctx context.Context, timeout time.Duration, try func(ctx context.Context, patience time.Duration) error) error {
	end := time.Now().Add(timeout)
	var why error
	for pause := waitFirstPause; ; pause = min(pause*3/2, waitMaxPause) {
		left := time.Until(end)
		if why != nil && left < waitLeast {
			return &statusError{exitTimeout, fmt.Errorf("no answer after %v: %w", timeout, why)}
		}
		err := try(ctx, min(left, waitAttempt))
		if _, usage := errors.AsType[usageError](err); err == nil || usage {
			return err
		}
		if ctx.Err() == nil || why == nil {
			why = err
		}
		if sleep(ctx, min(pause, time.Until(end))) != nil {
			return fmt.Errorf("interrupted: %w", why)
		}
	}
}

// try asks for an answer once.
func (f *apiFlags) try(ctx context.Context, p program, target string, patience time.Duration) error {
	a, err := f.open(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience+waitGrace)
	defer cancel()
	var none struct{}
	return a.call(ctx, http.MethodPost, "/api/v1/reach", url.Values{"target": {target}, "timeout": {patience.String()}}, &none)
}

// explained adds the node's verdict to err if that is a wait in vain.
func (f *apiFlags) explained(ctx context.Context, p program, target string, err error) error {
	late, ok := errors.AsType[*statusError](err)
	if !ok || late.status != exitTimeout || ctx.Err() != nil {
		return err
	}
	a, openErr := f.open(p)
	if openErr != nil {
		return err
	}
	v, askErr := a.why(ctx, target, whyPatience)
	if askErr != nil {
		return err
	}
	return &statusError{late.status, withVerdict(late.error, v)}
}
