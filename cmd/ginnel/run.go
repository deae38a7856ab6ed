package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// program is what a command knows of the world around it.
type program struct {
	args           []string // with its own name
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	environ        func() []string
	reaper         *reaper // nil where no orphans come to this process
}

// nobodyReads reports whether err is that of writing to a standard output that is closed.
func (p program) nobodyReads(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	out, isFile := p.stdout.(*os.File)
	return ok && isFile && e.Path == out.Name() && errors.Is(e, syscall.EPIPE)
}

// Exit statuses that scripts rely on.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2 // usage or configuration; nothing was started
	exitTimeout = 3 // not ready in time
	exitRefused = 4 // authentication refused
	exitControl = 5 // coordination server not reachable
)

// statusError is an error with an exit status of its own.
type statusError struct {
	status int
	error
}

func (e *statusError) Unwrap() error { return e.error }

// usageError is a mistake of the user's, in the command line, the environment or a file.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run runs one command and returns the exit status. All errors are shown here, and only here.
func run(ctx context.Context, args []string, p program) int {
	root := newRoot(p)
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[childStatus](err); ok {
		return int(e)
	}
	if p.nobodyReads(err) {
		return exitFailure // and whoever has stopped reading, as head does, wants to hear no more
	}
	fmt.Fprintf(p.stderr, "ginnel: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nginnel: "))
	if _, usage := errors.AsType[usageError](err); usage {
		fmt.Fprintf(p.stderr, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return exitFailure
}

func newRoot(p program) *cobra.Command {
	root := &cobra.Command{
		Use:   "ginnel",
		Short: "A way into a private mesh that needs no root, no TUN device and no capabilities",
		Long: `ginnel joins a WireGuard mesh from any process, carries TCP/IP in user space, and
offers the mesh to ordinary programs as a local SOCKS5 and HTTP proxy.

Every flag can also be given as an environment variable (--dial-timeout is
GINNEL_DIAL_TIMEOUT, several values separated by commas) and as a key of the
same name in the YAML file named by --config. A flag wins over the environment,
and the environment over the file.`,
		Example: `  # Reach the private network that a wg-quick file describes:
  ginnel up --wireguard wg0.conf
  curl --proxy socks5h://127.0.0.1:1080 http://10.0.0.1/

  # See it work, without anything set up:
  ginnel demo`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usagef("no command given")
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w%s", flagError(err), unknownFlagHint(cmd, err))
	})
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return applySettings(cmd, p) }
	root.SetHelpCommand(newHelp())
	root.AddCommand(newUp(p), newDown(p), newRun(p), newStatus(p), newPing(p), newWait(p), newWhy(p), newNC(p), newLogout(p), newNetcheck(p), newRelay(p), newControl(p), newDemo(p), newVersion(p))
	return root
}

// newHelp is cobra's help command, which takes a mistyped topic for a success.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q", strings.Join(args, " "))
			}
			return topic.Help()
		},
	}
}

// noArgs and oneArg check the number of arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command or argument %q for %q%s", args[0], cmd.CommandPath(), unknownCommandHint(cmd, args[0]))
	}
	return nil
}

func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("%s: %s is missing", cmd.CommandPath(), name)
		case len(args) > 1:
			return usagef("%s: one %s is wanted, got %q too", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}
