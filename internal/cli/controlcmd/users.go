package controlcmd

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

func newControlUsers(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{Use: "users", Short: "Administer the users of a network, who own its nodes"},
		newUsersCreate(p), newUsersList(p), newUsersRename(p), newUsersDelete(p))
}

func newUsersCreate(p cli.Program) *cobra.Command {
	var display string
	cmd := adminCommand(p, &cobra.Command{
		Use:   "create USER",
		Short: "Make a user",
		Example: `  ginnel control users create ann
  ginnel control users create ann@example.com --display-name 'Ann Other'`,
		Args: wantArgs("USER"),
	}, func(ctx context.Context, c *adminCall) error {
		var u server.User
		req := map[string]string{"name": c.args[0], "display_name": display}
		if err := c.call(ctx, http.MethodPost, "users", req, &u); err != nil {
			return err
		}
		return c.say(u, "user %s is made", u.Name)
	})
	cmd.Flags().StringVar(&display, "display-name", "", "`name` as other people see it")
	return cmd
}

func newUsersList(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "list",
		Short: "List the users",
		Example: `  ginnel control users list
  ginnel control users list --json | jq -r '.[].name'`,
		Args: cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		users, err := listAll[server.User](ctx, c.admin, "users", nil)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, u := range users {
			rows = append(rows, []string{fmt.Sprint(u.ID), u.Name, dash(u.DisplayName), day(u.Created)})
		}
		return c.table(users, "ID USER DISPLAY-NAME CREATED", rows)
	})
}

func newUsersRename(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "rename USER NAME",
		Short:   "Give a user another name",
		Example: `  ginnel control users rename ann anne`,
		Args:    wantArgs("USER", "NAME"),
	}, func(ctx context.Context, c *adminCall) error {
		old, err := c.findUser(ctx, c.args[0])
		if err != nil {
			return err
		}
		var u server.User
		req := map[string]string{"name": c.args[1]}
		if err := c.call(ctx, http.MethodPatch, fmt.Sprint("users/", old.ID), req, &u); err != nil {
			return err
		}
		return c.say(u, "user %s is now %s", old.Name, u.Name)
	})
}

func newUsersDelete(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "delete USER",
		Short:   "Delete a user who has no untagged nodes and no valid keys",
		Example: `  ginnel control users delete ann`,
		Args:    wantArgs("USER"),
	}, func(ctx context.Context, c *adminCall) error {
		u, err := c.findUser(ctx, c.args[0])
		if err != nil {
			return err
		}
		if err := c.call(ctx, http.MethodDelete, fmt.Sprint("users/", u.ID), nil, nil); err != nil {
			return err
		}
		return c.done("user %s is deleted", u.Name)
	})
}

// findUser finds a user by name.
func (a *admin) findUser(ctx context.Context, name string) (server.User, error) {
	users, err := listAll[server.User](ctx, a, "users", nil)
	if err != nil {
		return server.User{}, err
	}
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		for _, u := range users {
			if same(u.Name, name) {
				return u, nil
			}
		}
	}
	return server.User{}, &adminError{http.StatusNotFound, fmt.Sprintf("there is no user %q", name)}
}
