// Command peers compares ginnel with its peers on this machine and prints a table. It makes all that it needs, programs and
// networks, and removes it again but for the built programs. It needs Linux, Go, ip(8) and nsenter(1), and root or user
// namespaces.
//
// It runs itself in a new network namespace, and there once more for each machine and each measurement.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"ginnel/bench/netlab"
	"ginnel/bench/trial"
)

// insideVariable tells a process of this program that it is in the namespace that was made for it.
const insideVariable = "GINNEL_BENCH_INSIDE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	known, err := trial.Play(ctx, args, os.Stdin, os.Stdout)
	if known {
		return status(err)
	}
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	case o.from != "":
		return status(again(o))
	case os.Getenv(insideVariable) != "":
		return status(compare(ctx, o))
	}
	return status(enter(ctx, o, args))
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// enter builds the programs, for which it needs the network that there is, and goes on in a new one.
func enter(ctx context.Context, o *options, args []string) error {
	if err := o.build(ctx); err != nil {
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
