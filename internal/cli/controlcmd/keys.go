package controlcmd

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

func newControlKeys(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{Use: "keys", Short: "Administer pre-auth keys, with which nodes join"},
		newKeysCreate(p), newKeysList(p), newKeysExpire(p), newKeysDelete(p))
}

func newKeysCreate(p cli.Program) *cobra.Command {
	var req server.AuthKeyRequest
	expiry := cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration"}
	cmd := adminCommand(p, &cobra.Command{
		Use:   "create --user USER",
		Short: "Make a pre-auth key and print it",
		Long: `create makes a key with which nodes join, as nodes of a user or with tags. It
prints the key on a line of its own. The key cannot be shown again later.

A key admits one node, or any number with --reusable.`,
		Example: `  KEY=$(ginnel control keys create --user ci --ephemeral --reusable --expiry 24h)
  ginnel control keys create --user ann --tags tag:db --take-over`,
		Args: cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		if req.User == "" {
			return cli.Usagef("--user USER must be given: whose nodes the key lets in")
		}
		var key server.AuthKey
		req.Expiry = after(expiry.Value)
		if err := c.call(ctx, http.MethodPost, "keys", req, &key); err != nil {
			return err
		}
		return c.say(key, "%s", key.Key)
	})
	fs := cmd.Flags()
	fs.StringVar(&req.User, "user", "", "`user` that the nodes belong to")
	fs.BoolVar(&req.Reusable, "reusable", false, "admit any number of nodes")
	fs.BoolVar(&req.Ephemeral, "ephemeral", false, "forget each node when it leaves")
	fs.StringSliceVar(&req.Tags, "tags", nil, "`tag`s that the nodes get, each as tag:NAME; repeatable")
	fs.Var(&expiry, "expiry", "how long the key is valid, such as 24h or 90d (0: for ever)")
	fs.BoolVar(&req.TakeOver, "take-over", false,
		"have a node take name and addresses of one that is offline and has the same name and owner")
	return cmd
}

func newKeysList(p cli.Program) *cobra.Command {
	var user string
	cmd := adminCommand(p, &cobra.Command{
		Use:   "list",
		Short: "List the pre-auth keys",
		Example: `  ginnel control keys list
  ginnel control keys list --user ci --json`,
		Args: cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		query := make(url.Values)
		if user != "" {
			query.Set("user", user)
		}
		keys, err := listAll[server.AuthKey](ctx, c.admin, "keys", query)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, k := range keys {
			rows = append(rows, []string{fmt.Sprint(k.ID), k.User, k.State, keyKind(k), dash(strings.Join(k.Tags, ",")),
				day(k.Created), day(k.Expiry), day(k.Used)})
		}
		return c.table(keys, "ID USER STATE KIND TAGS CREATED EXPIRES USED", rows)
	})
	cmd.Flags().StringVar(&user, "user", "", "only the keys of this `user`")
	return cmd
}

// keyKind lists what is special about a key.
func keyKind(k server.AuthKey) string {
	var words []string
	for _, w := range []struct {
		text string
		on   bool
	}{{"reusable", k.Reusable}, {"ephemeral", k.Ephemeral}, {"take-over", k.TakeOver}} {
		if w.on {
			words = append(words, w.text)
		}
	}
	return dash(strings.Join(words, ","))
}

func newKeysExpire(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "expire ID",
		Short:   "Make a pre-auth key invalid",
		Example: `  ginnel control keys expire 3`,
		Args:    wantArgs("ID"),
	}, func(ctx context.Context, c *adminCall) error {
		id, err := numberArg("key", c.args[0])
		if err != nil {
			return err
		}
		var k server.AuthKey
		if err := c.call(ctx, http.MethodPost, fmt.Sprintf("keys/%d/expire", id), nil, &k); err != nil {
			return err
		}
		return c.say(k, "key %d lets nobody in any more; the nodes that it let in stay", k.ID)
	})
}

func newKeysDelete(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete a pre-auth key",
		Example: `  ginnel control keys delete 3`,
		Args:    wantArgs("ID"),
	}, func(ctx context.Context, c *adminCall) error {
		id, err := numberArg("key", c.args[0])
		if err != nil {
			return err
		}
		if err := c.call(ctx, http.MethodDelete, fmt.Sprint("keys/", id), nil, nil); err != nil {
			return err
		}
		return c.done("key %d is deleted", id)
	})
}
