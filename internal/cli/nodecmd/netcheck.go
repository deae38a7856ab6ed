package nodecmd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/internal/egress"
	"ginnel/node"
	"ginnel/relay"
)

// NewNetcheck returns the command netcheck.
func NewNetcheck(p cli.Program) *cobra.Command {
	var o netcheckOptions
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Find out what the network between this machine and the relays lets through",
		Long: `netcheck measures the latency to every relay, by UDP or, if UDP is blocked, by
HTTPS. It reports how this machine's UDP port appears from outside, which relay is
home, and whether a proxy or TLS inspection is in the way. The relays are those of
the running node, or those of a file.`,
		Example: `  ginnel netcheck
  ginnel netcheck --json | jq .mapping
  ginnel netcheck --derp-map derpmap.json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), p) },
	}
	fs := cmd.Flags()
	o.where.Add(fs)
	fs.BoolVar(&o.asJSON, "json", false, "print JSON")
	fs.StringVar(&o.derpMap, "derp-map", "", "JSON `file` with the relays, instead of the running node's")
	fs.StringVar(&o.caFile, "ca-file", "", "`file` with further roots of trust for relays, PEM, with --derp-map")
	return cmd
}

// netcheckOptions say which relays are measured: those of the node, or those of the file derpMap.
type netcheckOptions struct {
	where           nodeapi.Flags
	derpMap, caFile string
	asJSON          bool
}

func (o *netcheckOptions) run(ctx context.Context, p cli.Program) error {
	check := o.checkByNode
	if o.derpMap != "" {
		check = o.checkByFile
	}
	r, err := check(ctx, p)
	if err != nil {
		return err
	}
	if o.asJSON {
		return json.NewEncoder(p.Stdout).Encode(r)
	}
	return showNetReport(p.Stdout, &r)
}

// checkByNode asks the running node.
func (o *netcheckOptions) checkByNode(ctx context.Context, p cli.Program) (r node.NetReport, err error) {
	a, err := o.where.Open(p)
	if err != nil {
		return r, err
	}
	return r, a.Call(ctx, http.MethodGet, "/api/v1/netcheck", nil, &r)
}

// checkByFile measures the way to the relays of a file.
func (o *netcheckOptions) checkByFile(ctx context.Context, p cli.Program) (r node.NetReport, err error) {
	b, err := os.ReadFile(o.derpMap)
	if err != nil {
		return r, cli.Usagef("--derp-map: %w", err)
	}
	var m relay.Map
	if err := json.Unmarshal(b, &m); err != nil {
		return r, cli.Usagef("--derp-map %s: %w", o.derpMap, err)
	}
	if err := m.Validate(); err != nil {
		return r, cli.Usagef("--derp-map %s: %w", o.derpMap, err)
	}
	roots, err := rootsWith(o.caFile)
	if err != nil {
		return r, err
	}
	return node.NetCheck(ctx, node.Config{
		Map: node.NetworkMap{Relays: m}, Roots: roots, OutboundProxy: egress.FromEnvironment(p.Getenv),
	})
}

func showNetReport(w io.Writer, r *node.NetReport) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "UDP\t%s\n", yesNo[r.UDP])
	fmt.Fprintf(t, "IPv4\t%s\n", yesNo[r.IPv4]+seenAs(r.GlobalV4))
	fmt.Fprintf(t, "IPv6\t%s\n", yesNo[r.IPv6]+seenAs(r.GlobalV6))
	fmt.Fprintf(t, "mapping\t%s\n", cmp.Or(string(r.Mapping), "unknown"))
	fmt.Fprintf(t, "home relay\t%s\n", cmp.Or(r.Home, "none"))
	if r.Proxy != "" {
		fmt.Fprintf(t, "proxy\t%s\n", r.Proxy)
	}
	if r.InspectedBy != "" {
		fmt.Fprintf(t, "inspected by\t%s\n", r.InspectedBy)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	fmt.Fprintln(t, "RELAY\tLATENCY\tBY\tERROR")
	for _, l := range r.Relays {
		latency := "-"
		if l.Transport != "" {
			latency = fmt.Sprintf("%.1f ms", l.LatencyMS)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.Name, latency, cmp.Or(l.Transport, "-"), l.Error)
	}
	return t.Flush()
}

var yesNo = map[bool]string{true: "yes", false: "no"}

// seenAs follows the answer for an address family if this machine's address there is known.
func seenAs(global netip.AddrPort) string {
	if global.IsValid() {
		return ", seen as " + global.String()
	}
	return ""
}
