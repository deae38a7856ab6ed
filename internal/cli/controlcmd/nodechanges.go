package controlcmd

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

// changeNode has one operation done on the node that the first argument names.
func (c *adminCall) changeNode(ctx context.Context, operation string, doc any) (before, now server.Node, err error) {
	if before, err = c.findNode(ctx, c.args[0]); err == nil {
		err = c.call(ctx, http.MethodPost, fmt.Sprintf("nodes/%d/%s", before.ID, operation), doc, &now)
	}
	return before, now, err
}

func newNodesExpire(p cli.Program) *cobra.Command {
	at := cli.Parsed[time.Time]{Parse: parseMoment, Kind: "time"}
	var forEver bool
	cmd := adminCommand(p, &cobra.Command{
		Use:   "expire NODE",
		Short: "Expire the key of a node, now or later, so that it has to log in again",
		Example: `  ginnel control nodes expire laptop
  ginnel control nodes expire laptop --at 2027-01-31
  ginnel control nodes expire laptop --at 2027-01-31T18:00:00+01:00
  ginnel control nodes expire db-1 --never`,
		Args: wantArgs("NODE"),
	}, func(ctx context.Context, c *adminCall) error {
		doc := make(map[string]any)
		switch {
		case forEver && at.Text != "":
			return cli.Usagef("--at and --never exclude each other")
		case forEver:
			doc["never"] = true
		case at.Text != "":
			doc["at"] = at.Value
		}
		_, n, err := c.changeNode(ctx, "expire", doc)
		switch {
		case err != nil:
			return err
		case n.Expired:
			return c.say(n, "node %s is expired", n.Name)
		case n.Expiry.IsZero():
			return c.say(n, "node %s never expires", n.Name)
		}
		return c.say(n, "node %s expires at %s", n.Name, n.Expiry.Local().Format(time.RFC3339))
	})
	cmd.Flags().Var(&at, "at", "when, as 2027-01-31 or 2027-01-31T18:00:00Z")
	cmd.Flags().BoolVar(&forEver, "never", false, "the key never expires")
	return cmd
}

// parseMoment reads a time of RFC 3339, or a day, which begins at midnight here.
func parseMoment(s string) (time.Time, error) {
	if at, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.IsZero() {
		return at, fmt.Errorf("%q is not a time such as 2027-01-31 or 2027-01-31T18:00:00Z", s)
	}
	return at, nil
}

func newNodesDelete(p cli.Program) *cobra.Command {
	var block bool
	cmd := adminCommand(p, &cobra.Command{
		Use:   "delete NODE",
		Short: "Delete a node",
		Long: `delete removes a node. Its machine can return as a new node, at once if it has a
reusable key; the server's log says so then. With --block the machine is refused
until "nodes unblock" admits it again.`,
		Example: `  ginnel control nodes delete laptop
  ginnel control nodes delete stolen --block`,
		Args: wantArgs("NODE"),
	}, func(ctx context.Context, c *adminCall) error {
		n, err := c.findNode(ctx, c.args[0])
		if err != nil {
			return err
		}
		if err := c.call(ctx, http.MethodDelete, fmt.Sprintf("nodes/%d?block=%t", n.ID, block), nil, nil); err != nil {
			return err
		}
		if block {
			return c.done("node %s is deleted, and its machine is kept out", n.Name)
		}
		return c.done("node %s is deleted", n.Name)
	})
	cmd.Flags().BoolVar(&block, "block", false, "refuse its machine from now on")
	return cmd
}

func newNodesBlocked(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "blocked",
		Short:   "List the blocked machines",
		Example: `  ginnel control nodes blocked`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		var list server.Page[server.Blocked]
		if err := c.call(ctx, http.MethodGet, "blocked", nil, &list); err != nil {
			return err
		}
		var rows [][]string
		for _, b := range list.Items {
			rows = append(rows, []string{b.Node, b.MachineKey.String(), day(b.Created)})
		}
		return c.table(list.Items, "NODE MACHINE SINCE", rows)
	})
}

func newNodesUnblock(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "unblock NODE",
		Short:   "Admit a blocked machine again, by the name of its node or by its key",
		Example: `  ginnel control nodes unblock stolen`,
		Args:    wantArgs("NODE"),
	}, func(ctx context.Context, c *adminCall) error {
		if err := c.call(ctx, http.MethodDelete, "blocked/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
			return err
		}
		return c.done("the machine of %s may come in again", c.args[0])
	})
}

func newNodesRename(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "rename NODE NAME",
		Short: "Give a node a fixed name; an empty name restores that of its host",
		Example: `  ginnel control nodes rename ip-10-1-2-3 db-1
  ginnel control nodes rename db-1 ''`,
		Args: wantArgs("NODE", "[NAME]"),
	}, func(ctx context.Context, c *adminCall) error {
		before, n, err := c.changeNode(ctx, "rename", map[string]string{"name": c.args[1]})
		if err != nil {
			return err
		}
		return c.say(n, "node %s is now %s", before.Name, n.FQDN)
	})
}

func newNodesTag(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "tag NODE TAG...",
		Short: "Replace the tags of a node",
		Long: `tag replaces the tags of a node. A node with tags does not belong to a user any
more. If a policy is in force, its tagOwners must list each tag.`,
		Example: `  ginnel control nodes tag db-1 tag:db
  ginnel control nodes tag web-1 tag:web,tag:public`,
		Args: wantArgs("NODE", "TAG..."),
	}, func(ctx context.Context, c *adminCall) error {
		tags := cli.SplitList(strings.Join(c.args[1:], ","))
		if len(tags) == 0 {
			return cli.Usagef("%q is no tag", strings.Join(c.args[1:], " "))
		}
		_, n, err := c.changeNode(ctx, "tags", map[string][]string{"tags": tags})
		if err != nil {
			return err
		}
		return c.say(n, "node %s has the tags %s", n.Name, strings.Join(n.Tags, " "))
	})
}

func newNodesMove(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "move NODE USER",
		Short:   "Give a node to a user, without tags",
		Example: `  ginnel control nodes move laptop ann`,
		Args:    wantArgs("NODE", "USER"),
	}, func(ctx context.Context, c *adminCall) error {
		_, n, err := c.changeNode(ctx, "move", map[string]string{"user": c.args[1]})
		if err != nil {
			return err
		}
		return c.say(n, "node %s is %s's", n.Name, n.User)
	})
}

func newNodesRoutes(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{
		Use:   "routes",
		Short: "Administer the routes of nodes: subnets and the Internet",
	},
		newRoutesList(p), newRoutesApprove(p), newRoutesRevoke(p))
}

func newRoutesList(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "list",
		Short:   "List the routes that nodes advertise",
		Example: `  ginnel control nodes routes list`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		routes, err := listAll[server.Route](ctx, c.admin, "routes", nil)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, r := range routes {
			state := "waiting"
			switch {
			case r.Primary:
				state = "in use"
			case r.Approved && r.Exit:
				state = "exit"
			case r.Approved:
				state = "standby"
			}
			rows = append(rows, []string{r.Prefix.String(), r.Node, state})
		}
		return c.table(routes, "ROUTE NODE STATE", rows)
	})
}

func newRoutesApprove(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "approve NODE [CIDR...]",
		Short: "Approve routes of a node: these, or all that it advertises",
		Example: `  ginnel control nodes routes approve office 10.20.0.0/16
  ginnel control nodes routes approve exit-1 0.0.0.0/0
  ginnel control nodes routes approve office`,
		Args: wantArgs("NODE..."),
	}, func(ctx context.Context, c *adminCall) error {
		return c.changeRoutes(ctx, func(approved, given, advertised []netip.Prefix) []netip.Prefix {
			if len(given) == 0 {
				given = advertised
			}
			return append(approved, given...)
		})
	})
}

func newRoutesRevoke(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:   "revoke NODE [CIDR...]",
		Short: "Revoke the approval of routes of a node: these, or all",
		Example: `  ginnel control nodes routes revoke office 10.20.0.0/16
  ginnel control nodes routes revoke office`,
		Args: wantArgs("NODE..."),
	}, func(ctx context.Context, c *adminCall) error {
		return c.changeRoutes(ctx, func(approved, given, _ []netip.Prefix) []netip.Prefix {
			both := slices.ContainsFunc(given, isDefaultRoute) // an exit node needs both families or none
			return slices.DeleteFunc(approved, func(r netip.Prefix) bool {
				return len(given) == 0 || slices.Contains(given, r) || both && isDefaultRoute(r)
			})
		})
	})
}

func isDefaultRoute(p netip.Prefix) bool { return p.Bits() == 0 }

// changeRoutes has next choose which routes are approved from now on.
func (c *adminCall) changeRoutes(ctx context.Context,
	next func(approved, given, advertised []netip.Prefix) []netip.Prefix) error {
	given, err := parsePrefixes(c.args[1:])
	if err != nil {
		return err
	}
	before, err := c.findNode(ctx, c.args[0])
	if err != nil {
		return err
	}
	var n server.Node
	routes := next(before.Routes.Approved, given, before.Routes.Advertised)
	doc := map[string][]netip.Prefix{"approved": append([]netip.Prefix{}, routes...)}
	if err := c.call(ctx, http.MethodPost, fmt.Sprintf("nodes/%d/routes", before.ID), doc, &n); err != nil {
		return err
	}
	return c.say(n, "node %s: approved %s, in use %s", n.Name, words(n.Routes.Approved), words(n.Routes.Served))
}

func parsePrefixes(texts []string) (prefixes []netip.Prefix, err error) {
	for _, text := range cli.SplitList(strings.Join(texts, ",")) {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, cli.Usagef("%q is not a route such as 10.20.0.0/16", text)
		}
		if r != r.Masked() {
			return nil, cli.Usagef("%q is not a route: %s is", text, r.Masked())
		}
		prefixes = append(prefixes, r)
	}
	if len(texts) > 0 && len(prefixes) == 0 {
		return nil, cli.Usagef("%q is not a route such as 10.20.0.0/16", strings.Join(texts, " "))
	}
	return prefixes, nil
}
