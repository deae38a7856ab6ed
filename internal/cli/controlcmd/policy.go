package controlcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

func newControlPolicy(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{Use: "policy", Short: "Administer the policy, which says who may reach whom"},
		newPolicyCheck(p), newPolicyGet(p), newPolicySet(p), newPolicyDelete(p))
}

func newPolicyCheck(p cli.Program) *cobra.Command {
	var offline, explain bool
	where := new(adminFlags)
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a policy file without putting it in force",
		Long: `check reads a policy file as the server does, and runs its tests on the server's
nodes. With --offline it checks what can be checked without a server. With
--explain it also lists what each entry does, and for how many nodes.`,
		Example: `  ginnel control policy check policy.hujson
  ginnel control policy check --explain policy.hujson
  ginnel control policy check --offline policy.hujson`,
		Args: wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readPolicyArg(args[0])
			if err != nil {
				return err
			}
			c := &adminCall{args: args, out: p.Stdout, json: where.asJSON}
			var checked server.Policy
			if offline {
				checked, err = checkOffline(text)
			} else if c.admin, err = where.open(p); err == nil {
				err = c.call(cmd.Context(), http.MethodPost, fmt.Sprintf("policy/check?explain=%t", explain), hujson(text),
					&checked)
			}
			if !explain {
				checked.Explained = nil
			}
			return c.showPolicy(checked, err, "is good")
		},
	}
	where.add(cmd.Flags())
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask a server")
	cmd.Flags().BoolVar(&explain, "explain", false, "list what each entry does")
	return cmd
}

// readPolicyArg reads the file that a command names.
func readPolicyArg(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, cli.Usagef("reading the policy: %w", err)
	}
	return text, nil
}

// showPolicy tells what a server said of the file that was given: its mistakes, with their places,
// or its warnings and what became of it.
func (c *adminCall) showPolicy(answer server.Policy, err error, became string) error {
	file := c.args[0]
	if e, ok := errors.AsType[*adminError](err); ok && e.status == http.StatusBadRequest || err != nil && c.admin == nil {
		return placedIn(file, err)
	}
	if err != nil {
		return err
	}
	return c.show(answer, func(w io.Writer) error {
		for _, text := range answer.Explained {
			fmt.Fprintf(w, "%s:%s\n", file, text)
		}
		for _, text := range answer.Warnings {
			fmt.Fprintf(w, "%s:%s\n", file, text)
		}
		_, err := fmt.Fprintf(w, "%s %s\n", file, became)
		return err
	})
}

func newPolicyGet(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "get",
		Short:   "Print the policy in force",
		Example: `  ginnel control policy get > policy.hujson`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		var now server.Policy
		if err := c.call(ctx, http.MethodGet, "policy", nil, &now); err != nil {
			return err
		}
		if now.Text == "" && !c.json {
			return errors.New("there is no policy: everybody may reach everybody")
		}
		if !c.json {
			for _, test := range now.Failing {
				fmt.Fprintf(p.Stderr, "ginnel: the policy in force fails a test: %s\n", test)
			}
		}
		return c.show(now, func(w io.Writer) error {
			_, err := io.WriteString(w, now.Text)
			return err
		})
	})
}

func newPolicySet(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "set FILE",
		Short: "Put a policy in force",
		Long: `set puts a policy in force for all nodes at once. If the server was started with
--policy, that file replaces this policy when the file changes and when the
server starts.`,
		Example: `  ginnel control policy set policy.hujson`,
		Args:    wantArgs("FILE"),
	}, func(ctx context.Context, c *adminCall) error {
		text, err := readPolicyArg(c.args[0])
		if err != nil {
			return err
		}
		var set server.Policy
		err = c.call(ctx, http.MethodPut, "policy", hujson(text), &set)
		return c.showPolicy(set, err, "is in force")
	})
}

func newPolicyDelete(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "delete",
		Short:   "Remove the policy: every node may reach every node",
		Example: `  ginnel control policy delete`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		if err := c.call(ctx, http.MethodDelete, "policy", nil, nil); err != nil {
			return err
		}
		return c.done("there is no policy any more: everybody may reach everybody")
	})
}
