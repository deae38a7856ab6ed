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

func NewNetcheck(p cli.Program) *cobra.Command {
	var where nodeapi.Flags
	var asJSON bool
	var derpMap, caFile string
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Find out what the network between this machine and the relays lets through",
		Long: `netcheck measures the way to every relay, by UDP or, where that does not come
through, by HTTPS, and tells how this machine's UDP looks from outside, which relay
is home, and what proxy or inspection is in the way. The relays are those of the
running node, or of a file.`,
		Example: `  ginnel netcheck
  ginnel netcheck --json | jq .mapping
  ginnel netcheck --derp-map derpmap.json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r node.NetReport
			var err error
			if derpMap != "" {
				r, err = checkByFile(cmd.Context(), p, derpMap, caFile)
			} else {
				r, err = checkByNode(cmd.Context(), p, &where)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(p.Stdout).Encode(r)
			}
			return showNetReport(p.Stdout, &r)
		},
	}
	fs := cmd.Flags()
	where.Add(fs)
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	fs.StringVar(&derpMap, "derp-map", "", "JSON `file` with the relays, instead of the running node's")
	fs.StringVar(&caFile, "ca-file", "", "`file` with further roots of trust for relays, PEM, with --derp-map")
	return cmd
}

// checkByNode asks the running node.
func checkByNode(ctx context.Context, p cli.Program, where *nodeapi.Flags) (r node.NetReport, err error) {
	a, err := where.Open(p)
	if err != nil {
		return r, err
	}
	return r, a.Call(ctx, http.MethodGet, "/api/v1/netcheck", nil, &r)
}

// checkByFile measures the way to the relays of a file.
func checkByFile(ctx context.Context, p cli.Program, file, caFile string) (node.NetReport, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return node.NetReport{}, cli.Usagef("--derp-map: %w", err)
	}
	var m relay.Map
	if err := json.Unmarshal(b, &m); err != nil {
		return node.NetReport{}, cli.Usagef("--derp-map %s: %w", file, err)
	}
	if err := m.Validate(); err != nil {
		return node.NetReport{}, cli.Usagef("--derp-map %s: %w", file, err)
	}
	roots, err := rootsWith(caFile)
	if err != nil {
		return node.NetReport{}, err
	}
	return node.NetCheck(ctx, node.Config{Map: node.NetworkMap{Relays: m}, Roots: roots, OutboundProxy: egress.FromEnvironment(p.Getenv)})
}

func showNetReport(w io.Writer, r *node.NetReport) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "UDP\t%s\n", yesNo(r.UDP))
	fmt.Fprintf(t, "IPv4\t%s\n", withGlobal(r.IPv4, r.GlobalV4))
	fmt.Fprintf(t, "IPv6\t%s\n", withGlobal(r.IPv6, r.GlobalV6))
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

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func withGlobal(is bool, global netip.AddrPort) string {
	if global.IsValid() {
		return yesNo(is) + ", seen as " + global.String()
	}
	return yesNo(is)
}
