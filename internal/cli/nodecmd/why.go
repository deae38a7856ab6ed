package nodecmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/node"
)

const (
	whyTimeout  = 10 * time.Second // for the attempts of the command
	whyPatience = 2 * time.Second  // for the attempts after another command has given up
)

// NewWhy returns the command why.
func NewWhy(p cli.Program) *cobra.Command {
	var w whyRun
	cmd := &cobra.Command{
		Use:   "why HOST:PORT",
		Short: "Find the broken step on the way to a service, and how to mend it",
		Long: `why checks the steps of a connection through the running node, in this order: the
name, the network map, the policy, whether the peer is online, the path to it,
the WireGuard handshake, and TCP. It prints the result of each step, stops at the
first one that is broken, and says how to mend it.

The exit status is 0 if all steps are fine and 1 if one is broken. For a node that
has not joined its network yet it is 3, or 5 if the coordination server cannot be
reached.`,
		Example: `  ginnel why db:5432
  ginnel why 100.64.0.7:22 --json | jq -r .mend`,
		Args: cli.OneArg("HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error { return w.run(cmd.Context(), p, args[0]) },
	}
	w.where.Add(cmd.Flags())
	cmd.Flags().DurationVar(&w.timeout, "timeout", whyTimeout, "how long an attempt to connect may take")
	cmd.Flags().BoolVar(&w.asJSON, "json", false, "print JSON")
	return cmd
}

// whyRun is one run of the command.
type whyRun struct {
	where   nodeapi.Flags
	timeout time.Duration
	asJSON  bool
}

func (w *whyRun) run(ctx context.Context, p cli.Program, text string) error {
	target, err := cli.ParseTarget(text)
	if err != nil {
		return cli.Usage(err)
	}
	if _, _, err := net.SplitHostPort(target); err != nil {
		return cli.Usagef("%q has no port; want HOST:PORT, such as db:5432", text)
	}
	if w.timeout <= 0 {
		return cli.Usagef("--timeout %v: want a positive duration", w.timeout)
	}
	a, err := w.where.Open(p)
	if err != nil {
		return err
	}
	v, err := a.Why(ctx, target, w.timeout)
	if err != nil {
		return err
	}
	show := showSteps
	if w.asJSON {
		show = func(out io.Writer, v *node.Verdict) error { return json.NewEncoder(out).Encode(v) }
	}
	if err := show(p.Stdout, v); err != nil {
		return err
	}
	return verdictError(v)
}

// showSteps prints a line for each step. The mend follows in the error.
func showSteps(out io.Writer, v *node.Verdict) error {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, s := range v.Steps {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Step, s.State, s.Text)
	}
	return t.Flush()
}

// verdictError returns nil if no step is broken.
func verdictError(v *node.Verdict) error {
	if v.Broken == "" {
		return nil
	}
	return cli.WithStatus(verdictStatus(v), errors.New(v.Target+": "+verdictText(v, "")))
}

func verdictStatus(v *node.Verdict) int {
	switch v.Broken {
	case node.StepControl:
		return cli.ExitControl
	case node.StepLogin, node.StepJoin:
		return cli.ExitTimeout
	}
	return cli.ExitFailure
}

// verdictText names the first broken step and its mend. It leaves out what said contains.
func verdictText(v *node.Verdict, said string) string {
	text := "the first broken step is " + string(v.Broken)
	if !strings.Contains(said, v.Text) {
		text += ": " + v.Text
	}
	if v.Mend != "" {
		text += "\nmend: " + v.Mend
	}
	return text
}

// withVerdict adds a verdict to err, if there is one and a step is broken.
func withVerdict(err error, v *node.Verdict) error {
	if v == nil || v.Broken == "" {
		return err
	}
	text := verdictText(v, err.Error())
	if v.Target != "" {
		text = v.Target + ": " + text
	}
	return fmt.Errorf("%w\n%s", err, text)
}
