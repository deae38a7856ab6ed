package nodecmd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/node"
)

// watchInterval is how often status --watch looks.
const watchInterval = time.Second

// NewStatus returns the command status.
func NewStatus(p cli.Program) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running node, its peers and the path to each",
		Example: `  ginnel status
  ginnel status --json | jq '.peers[] | select(.path != "direct")'
  ginnel status --proxy 127.0.0.1:1080 --watch`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), p) },
	}
	o.where.Add(cmd.Flags())
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON, one object a line with --watch")
	cmd.Flags().BoolVar(&o.watch, "watch", false, "print again whenever something has changed, until interrupted")
	return cmd
}

// statusOptions say which node's status is shown, and how.
type statusOptions struct {
	where         nodeapi.Flags
	asJSON, watch bool
}

func (o *statusOptions) run(ctx context.Context, p cli.Program) error {
	a, err := o.where.Open(p)
	if err != nil {
		return err
	}
	view := statusView{a, func(s *node.Status) error { return showStatus(p.Stdout, s) }}
	if o.asJSON {
		view.show = func(s *node.Status) error { return json.NewEncoder(p.Stdout).Encode(s) }
	}
	if o.watch {
		return view.watch(ctx)
	}
	_, err = view.once(ctx, "")
	return err
}

// statusView is a node's status and how to show it.
type statusView struct {
	api  *nodeapi.Client
	show func(*node.Status) error
}

// once shows the current status, unless its essence is last. It returns the essence of the current
// status.
func (v *statusView) once(ctx context.Context, last string) (string, error) {
	var s node.Status
	if err := v.api.Call(ctx, http.MethodGet, "/api/v1/status", nil, &s); err != nil {
		return last, err
	}
	now := essence(s)
	if now == last {
		return last, nil
	}
	return now, v.show(&s)
}

// watch shows it again whenever something has changed, until ctx ends.
func (v *statusView) watch(ctx context.Context) error {
	for last := ""; ; {
		var err error
		if last, err = v.once(ctx, last); err != nil && ctx.Err() == nil {
			return err
		}
		if cli.Sleep(ctx, watchInterval) != nil {
			return nil
		}
	}
}

// essence returns the status without the fields that change with every packet.
func essence(s node.Status) string {
	peers := make([]node.PeerStatus, len(s.Peers))
	for i, p := range s.Peers {
		p.RxBytes, p.TxBytes, p.LatencyMS, p.LastHandshake = 0, 0, 0, time.Time{}
		peers[i] = p
	}
	s.Peers = peers
	b, _ := json.Marshal(s) // cannot fail for this type
	return string(b)
}

func showStatus(out io.Writer, s *node.Status) error {
	w := bufio.NewWriter(out) // keeps its first error until Flush
	fmt.Fprintf(w, "%s  %s", s.State, cli.JoinAddrs(s.Self.Addresses))
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
	if s.DNS != "" {
		fmt.Fprintf(w, "dns  %s\n", s.DNS)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tADDRESSES\tPATH\tRECEIVED\tSENT\tLAST HANDSHAKE")
	for _, p := range s.Peers {
		name := p.Name
		if name == "" {
			name = p.NodeKey.ShortString()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", name, addressText(p), pathText(p),
			node.FormatBytes(p.RxBytes), node.FormatBytes(p.TxBytes), ago(p.LastHandshake))
	}
	t.Flush()
	return w.Flush()
}

func pathText(p node.PeerStatus) string {
	if p.IsOffline() && p.LastSeen.IsZero() {
		return "offline"
	}
	if p.IsOffline() {
		return "offline, last seen " + ago(p.LastSeen)
	}
	switch p.Path {
	case node.PathDirect:
		if p.LatencyMS > 0 {
			return fmt.Sprintf("direct %s (%.1f ms)", p.Endpoint, p.LatencyMS)
		}
		return "direct " + p.Endpoint
	case node.PathRelay:
		if p.DirectLossy {
			return "relay " + p.Relay + " (the direct path loses packets)"
		}
		return "relay " + p.Relay
	}
	if p.HasNoAnswer() {
		return "none: no answer"
	}
	return "idle" // nothing has been sent for a while
}

// addressText lists the addresses and routes of a peer, at most as many as fit on a line.
func addressText(p node.PeerStatus) string {
	const most = 4
	var texts []string
	for _, a := range p.Addresses {
		texts = append(texts, a.String())
	}
	for _, r := range p.Routes {
		texts = append(texts, r.String())
	}
	if len(texts) > most+1 {
		texts = append(texts[:most], fmt.Sprintf("and %d more", len(texts)-most))
	}
	return strings.Join(texts, " ")
}

// ago says how long ago a time was, in one unit.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}
