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

// insideVariable tells a process of this program that it is in the namespace that was made for it.
const insideVariable = "GINNEL_BENCH_INSIDE"

// Comparison is what a command does.
type Comparison interface {
	// Build makes the programs. It runs outside the namespace, because it needs the network that there is.
	Build(ctx context.Context) error
	// Compare measures, in a network namespace of its own, and reports.
	Compare(ctx context.Context) error
	// Again reports on figures that were kept, if that is what is wanted.
	Again() (wanted bool, err error)
}

// Play does what a role asks for; known is false if the arguments are not those of a role.
type Play func(ctx context.Context, args []string, in io.Reader, out io.Writer) (known bool, err error)

// Main runs a command and returns its exit status. The command runs itself in a new network namespace, and there once more for
// each role. Parse reads the arguments of the command, which do not begin with a role.
func Main(args []string, play Play, parse func(args []string) (Comparison, error)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	known, err := play(ctx, args, os.Stdin, os.Stdout)
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
	if wanted, err := c.Again(); wanted {
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

// enter builds the programs and goes on in a new namespace.
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
	return cmd.Wait() // it has said itself what was wrong
}
