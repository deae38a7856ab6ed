package session

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"ginnel/bench/netlab"
)

// insideVariable is set in the environment of the process that runs in the new namespace.
const insideVariable = "GINNEL_BENCH_INSIDE"

// Comparison is what a command does.
type Comparison interface {
	// Build builds the programs. It runs outside the namespace, because it may download modules.
	Build(ctx context.Context) error
	// Compare measures and reports. It runs in a new network namespace.
	Compare(ctx context.Context) error
	// ReportFile reports on figures from a file, if the flags ask for that.
	ReportFile() (wanted bool, err error)
}

// RunRole runs a role of the program. Known is false if the arguments do not name a role.
type RunRole func(ctx context.Context, args []string, in io.Reader, out io.Writer) (known bool, err error)

// Main runs a command and returns its exit status. The command starts itself again in a new network
// namespace, and from there once for each role. Parse reads arguments that do not name a role.
func Main(args []string, runRole RunRole, parse func(args []string) (Comparison, error)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	known, err := runRole(ctx, args, os.Stdin, os.Stdout)
	if known {
		return status(err)
	}
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if wanted, err := c.ReportFile(); wanted {
		return status(err)
	}
	if os.Getenv(insideVariable) != "" {
		return status(c.Compare(ctx))
	}
	return status(enter(ctx, c, args))
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// enter builds the programs and runs the command again in a new namespace.
func enter(ctx context.Context, c Comparison, args []string) error {
	if err := c.Build(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	netlab.Inside(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	return cmd.Wait() // the process has printed its errors itself
}
