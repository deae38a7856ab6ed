package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Run runs one command and returns the exit status. Only Run prints errors.
func Run(ctx context.Context, p Program, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[ChildStatus](err); ok {
		return int(e)
	}
	if p.nobodyReads(err) {
		return ExitFailure // the reader, such as head, has left on purpose
	}
	fmt.Fprintf(p.Stderr, "ginnel: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nginnel: "))
	if IsUsage(err) {
		fmt.Fprintf(p.Stderr, "See '%s --help'.\n", cmd.CommandPath())
	}
	return ExitStatus(err)
}

// NewRoot returns the command ginnel with its subcommands.
func NewRoot(p Program, commands ...*cobra.Command) *cobra.Command {
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
		Args:          NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return Usagef("no command given")
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usagef("%w%s", flagError(err), unknownFlagHint(cmd, err))
	})
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return ApplySettings(cmd, p) }
	root.SetHelpCommand(newHelp())
	root.AddCommand(append(commands, newVersion(p))...)
	return root
}

// newHelp replaces cobra's help command, which exits with 0 for a topic that does not exist.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return Usagef("there is no command %q", strings.Join(args, " "))
			}
			return topic.Help()
		},
	}
}

// NoArgs checks that there are no arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("unknown command or argument %q for %q%s", args[0], cmd.CommandPath(), unknownCommandHint(cmd, args[0]))
	}
	return nil
}

// OneArg checks that there is exactly one argument. name is what the usage line calls it.
func OneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return Usagef("%s: %s is missing", cmd.CommandPath(), name)
		case len(args) > 1:
			return Usagef("%s needs one %s, got %q too", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}

// CommandGroup makes cmd a command that only has subcommands. If a subcommand is mistyped, the
// error is about its name, not about its flags, which cmd does not have.
func CommandGroup(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.Args = NoArgs
	cmd.FParseErrWhitelist.UnknownFlags = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.Help()
		return Usagef("'%s' wants a command of its own", cmd.CommandPath())
	}
	cmd.AddCommand(commands...)
	return cmd
}
