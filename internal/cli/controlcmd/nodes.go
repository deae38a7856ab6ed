package controlcmd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

func newControlNodes(p cli.Program) *cobra.Command {
	return cli.CommandGroup(&cobra.Command{Use: "nodes", Short: "Administer the nodes of a network"},
		newNodesList(p), newNodesShow(p), newNodesPending(p), newNodesApprove(p), newNodesRefuse(p), newNodesExpire(p),
		newNodesDelete(p), newNodesBlocked(p), newNodesUnblock(p), newNodesRename(p), newNodesTag(p), newNodesMove(p),
		newNodesRoutes(p))
}

func newNodesList(p cli.Program) *cobra.Command {
	var user string
	cmd := adminCommand(p, &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Example: `  ginnel control nodes list
  ginnel control nodes list --json | jq -r '.[] | select(.online) | .fqdn'`,
		Args: cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		query := make(url.Values)
		if user != "" {
			query.Set("user", user)
		}
		nodes, err := listAll[server.Node](ctx, c.admin, "nodes", query)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, n := range nodes {
			rows = append(rows, []string{fmt.Sprint(n.ID), n.Name, nodeOwner(n), cli.JoinAddrs(n.Addresses), nodeState(n),
				dash(n.OS), nodeExpiry(n)})
		}
		return c.table(nodes, "ID NODE OWNER ADDRESSES STATE OS EXPIRES", rows)
	})
	cmd.Flags().StringVar(&user, "user", "", "only the nodes of this `user`")
	return cmd
}

func nodeOwner(n server.Node) string {
	if len(n.Tags) > 0 {
		return strings.Join(n.Tags, ",")
	}
	return n.User
}

func nodeState(n server.Node) string {
	state := "offline"
	if n.Online {
		state = "online"
	}
	if n.Ephemeral {
		state += ",ephemeral"
	}
	if n.Contested {
		state += ",contested"
	}
	return state
}

func lastSeen(n server.Node) string {
	if n.Online {
		return "now"
	}
	return day(n.LastSeen)
}

func nodeExpiry(n server.Node) string {
	if n.Expired {
		return "expired"
	}
	return day(n.Expiry)
}

func newNodesShow(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "show NODE",
		Short:   "Show everything about a node",
		Example: `  ginnel control nodes show db-1`,
		Args:    wantArgs("NODE"),
	}, func(ctx context.Context, c *adminCall) error {
		n, err := c.findNode(ctx, c.args[0])
		if err != nil {
			return err
		}
		return c.show(n, func(w io.Writer) error { return showNode(w, n) })
	})
}

func showNode(w io.Writer, n server.Node) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, line := range [][2]string{
		{"node", fmt.Sprintf("%s (%d)", n.FQDN, n.ID)}, {"owner", nodeOwner(n)}, {"addresses", cli.JoinAddrs(n.Addresses)},
		{"state", nodeState(n)},
		{"last seen", lastSeen(n)}, {"created", day(n.Created)}, {"expires", nodeExpiry(n)}, {"host", n.Hostname},
		{"system", dash(n.OS)}, {"version", dash(n.Version)}, {"node key", n.NodeKey.String()},
		{"machine key", n.MachineKey.String()},
		{"relay", fmt.Sprint(n.Relay)}, {"endpoints", words(n.Endpoints)}, {"routes advertised", words(n.Routes.Advertised)},
		{"routes approved", words(n.Routes.Approved)}, {"routes served", words(n.Routes.Served)},
	} {
		fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
	}
	return t.Flush()
}

// words writes a list in one cell.
func words[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return dash(strings.Join(texts, " "))
}

// findNode finds a node by its name or else by its number.
func (a *admin) findNode(ctx context.Context, ref string) (n server.Node, err error) {
	label, _, _ := strings.Cut(ref, ".")
	nodes, err := listAll[server.Node](ctx, a, "nodes", url.Values{"name": {label}})
	if err != nil {
		return n, err
	}
	for _, n := range nodes {
		if ref == n.Name || strings.TrimSuffix(ref, ".") == n.FQDN {
			return n, nil
		}
	}
	if _, err := strconv.ParseUint(ref, 10, 63); err == nil {
		return n, a.call(ctx, http.MethodGet, "nodes/"+ref, nil, &n)
	}
	return n, &adminError{http.StatusNotFound, fmt.Sprintf("there is no node %q", ref)}
}

func newNodesPending(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "pending",
		Short:   "List the nodes that wait for approval",
		Example: `  ginnel control nodes pending`,
		Args:    cli.NoArgs,
	}, func(ctx context.Context, c *adminCall) error {
		logins, err := listAll[server.Login](ctx, c.admin, "logins", nil)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, l := range logins {
			state := "gone" // and forgotten soon
			if l.Waiting {
				state = "waiting"
			}
			rows = append(rows, []string{l.ID, dash(l.Hostname), dash(l.OS), dash(strings.Join(l.Tags, ",")),
				l.NodeKey.ShortString(), state, day(l.Until)})
		}
		return c.table(logins, "LOGIN HOST OS TAGS KEY STATE UNTIL", rows)
	})
}

// loginArg is a login, given by its number or by the address that the node shows.
func loginArg(s string) string { return url.PathEscape(path.Base(s)) }

func newNodesApprove(p cli.Program) *cobra.Command {
	var user string
	cmd := adminCommand(p, &cobra.Command{
		Use:   "approve LOGIN --user USER",
		Short: "Approve a waiting node as a node of a user",
		Example: `  ginnel control nodes approve ginnel-login-0123456789abcdef01234567 --user ann
  ginnel control nodes approve https://control.example.com/register/ginnel-login-0123456789abcdef01234567 --user ann`,
		Args: wantArgs("LOGIN"),
	}, func(ctx context.Context, c *adminCall) error {
		if user == "" {
			return cli.Usagef("--user USER must be given: whose the node is to be")
		}
		var n server.Node
		path := "logins/" + loginArg(c.args[0]) + "/approve"
		if err := c.call(ctx, http.MethodPost, path, map[string]string{"user": user}, &n); err != nil {
			return err
		}
		return c.say(n, "node %s of %s is let in, with the addresses %s", n.Name, nodeOwner(n), cli.JoinAddrs(n.Addresses))
	})
	cmd.Flags().StringVar(&user, "user", "", "`user` that the node will belong to")
	return cmd
}

func newNodesRefuse(p cli.Program) *cobra.Command {
	return adminCommand(p, &cobra.Command{
		Use:     "refuse LOGIN",
		Short:   "Refuse a waiting node",
		Example: `  ginnel control nodes refuse ginnel-login-0123456789abcdef01234567`,
		Args:    wantArgs("LOGIN"),
	}, func(ctx context.Context, c *adminCall) error {
		if err := c.call(ctx, http.MethodDelete, "logins/"+loginArg(c.args[0]), nil, nil); err != nil {
			return err
		}
		return c.done("the node is sent away")
	})
}
