package controlcmd

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

func newControlTokens(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{
		Use:   "tokens",
		Short: "Administer the tokens of programs that administer the server",
	},
		newTokensCreate(p), newTokensList(p), newTokensDelete(p))
}

func newTokensCreate(p cli.Program) *cobra.Command {
	expiry := cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration"}
	cmd := adminCommand(p, &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it",
		Long: `create makes a token that allows everything that these commands can do. It prints
the token on a line of its own. The token cannot be shown again later. NAME says
what it is for.`,
		Example: `  ginnel control tokens create deploy --expiry 90d > token
  ginnel control nodes list --server https://control.example.com --token file:token`,
		Args: wantArgs("NAME"),
	}, func(ctx context.Context, c *adminCall) error {
		var t server.Token
		req := server.Token{Name: c.args[0], Expiry: after(expiry.Value)}
		doc := map[string]any{"name": req.Name, "expiry": req.Expiry}
		if err := c.call(ctx, http.MethodPost, "tokens", doc, &t); err != nil {
			return err
		}
		return c.say(t, "%s", t.Token)
	})
	cmd.Flags().Var(&expiry, "expiry", "how long the token is valid, such as 24h or 90d (0: for ever)")
	return cmd
}

func newTokensList(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "list",
		Short:   "List the tokens",
		Example: `  ginnel control tokens list`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		tokens, err := listAll[server.Token](ctx, c.admin, "tokens", nil)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, t := range tokens {
			rows = append(rows, []string{fmt.Sprint(t.ID), dash(t.Name), day(t.Created), day(t.Expiry)})
		}
		return c.table(tokens, "ID NAME CREATED EXPIRES", rows)
	})
}

func newTokensDelete(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete a token",
		Example: `  ginnel control tokens delete 2`,
		Args:    wantArgs("ID"),
	}, func(ctx context.Context, c *adminCall) error {
		id, err := numberArg("token", c.args[0])
		if err != nil {
			return err
		}
		if err := c.call(ctx, http.MethodDelete, fmt.Sprint("tokens/", id), nil, nil); err != nil {
			return err
		}
		return c.done("token %d is deleted", id)
	})
}
