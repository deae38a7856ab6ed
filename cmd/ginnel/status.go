package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ginnel/node"
)

// watchInterval is how often status --watch looks.
const watchInterval = time.Second

func newStatus(p program) *cobra.Command {
	var where apiFlags
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running node, its peers and the path to each",
		Example: `  ginnel status
  ginnel status --json | jq '.peers[] | select(.path != "direct")'
  ginnel status --proxy 127.0.0.1:1080 --watch`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := where.open(p)
			if err != nil {
				return err
			}
			show := showStatus
			if asJSON {
				show = showStatusJSON
			}
			return runStatus(cmd.Context(), a, watch, func(s *node.Status) error { return show(p.stdout, s) })
		},
	}
	where.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line with --watch")
	cmd.Flags().BoolVar(&watch, "watch", false, "print again whenever something has changed, until interrupted")
	return cmd
}

func runStatus(ctx context.Context, a *api, watch bool, show func(*node.Status) error) error {
	last := ""
	for {
		var s node.Status
		if err := a.call(ctx, http.MethodGet, "/api/v1/status", nil, &s); err != nil {
			if watch && ctx.Err() != nil {
				return nil
			}
			return err
		}
		if now := essence(s); now != last {
			if err := show(&s); err != nil {
				return err
			}
			last = now
		}
		if !watch || sleep(ctx, watchInterval) != nil {
			return nil
		}
	}
}

// essence is what a watcher wants to hear of: not every byte that passes.
func essence(s node.Status) string {
	peers := make([]node.PeerStatus, len(s.Peers))
	for i, p := range s.Peers {
		p.RxBytes, p.TxBytes, p.LatencyMS, p.LastHandshake = 0, 0, 0, time.Time{}
		peers[i] = p
	}
	s.Peers = peers
	b, _ := json.Marshal(s) // the type has nothing that fails
	return string(b)
}

func showStatusJSON(w io.Writer, s *node.Status) error { return json.NewEncoder(w).Encode(s) }

func showStatus(w io.Writer, s *node.Status) error {
	fmt.Fprintf(w, "%s  %s", s.State, join(s.Self.Addresses))
	if s.Self.Name != "" {
		fmt.Fprintf(w, "  %s", s.Self.Name)
	}
	if s.Self.Relay != "" {
		fmt.Fprintf(w, "  home relay %s", s.Self.Relay)
	}
	fmt.Fprintln(w)
	if s.Reason != "" {
		fmt.Fprintf(w, "  %s\n", s.Reason)
	}
	for _, h := range s.Health {
		fmt.Fprintf(w, "! %s\n", strings.TrimSuffix(h.Text+"; "+h.Mend, "; "))
	}
	fmt.Fprintf(w, "proxy  %s\n", strings.Join(s.Proxies, ", "))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tADDRESSES\tPATH\tRECEIVED\tSENT\tLAST HANDSHAKE")
	for _, p := range s.Peers {
		name := p.Name
		if name == "" {
			name = p.NodeKey.ShortString()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", name, joinPrefixes(p.Addresses), pathText(p), size(p.RxBytes), size(p.TxBytes), ago(p.LastHandshake))
	}
	return t.Flush()
}

func pathText(p node.PeerStatus) string {
	switch p.Path {
	case node.PathDirect:
		if p.LatencyMS > 0 {
			return fmt.Sprintf("direct %s (%.1f ms)", p.Endpoint, p.LatencyMS)
		}
		return "direct " + p.Endpoint
	case node.PathRelay:
		return "relay " + p.Relay
	}
	return "none"
}

func join(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

// joinPrefixes lists what a peer has; single addresses without their length, and not more than a line holds.
func joinPrefixes(prefixes []netip.Prefix) string {
	const most = 4
	var texts []string
	for i, p := range prefixes {
		if i == most && len(prefixes) > most+1 {
			texts = append(texts, fmt.Sprintf("and %d more", len(prefixes)-most))
			break
		}
		if p.IsSingleIP() {
			texts = append(texts, p.Addr().String())
		} else {
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, " ")
}

// size writes a number of bytes for people.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f := float64(n)
	for _, u := range units[:len(units)-1] {
		if f < 1024 {
			if u == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= 1024
	}
	return fmt.Sprintf("%.1f %s", f, units[len(units)-1])
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}
