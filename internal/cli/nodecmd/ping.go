package nodecmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/node"
)

// pingInterval is the time between two pings.
const pingInterval = time.Second

// NewPing returns the command ping.
func NewPing(p cli.Program) *cobra.Command {
	var where nodeapi.Flags
	run := pinger{out: p.Stdout}
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Ping a peer through the mesh and say which path each answer took",
		Long: `ping pings a peer, given by name or address, and exits with 0 if it has answered;
with --until-direct, if it has answered directly. A plain WireGuard peer is pinged
by ICMP. Its host answers that; a ginnel node does not.`,
		Example: `  ginnel ping 10.0.0.1 -c 3
  ginnel ping db --until-direct`,
		Args: cli.OneArg("PEER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if run.count < 0 {
				return cli.Usagef("--count %d must not be negative (0: no end)", run.count)
			}
			if args[0] == "" {
				return cli.Usagef("%s: PEER is empty", cmd.CommandPath())
			}
			a, err := where.Open(p)
			if err != nil {
				return err
			}
			run.api, run.peer = a, args[0]
			return run.run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	where.Add(fs)
	fs.IntVarP(&run.count, "count", "c", 10, "`number` of pings, 0 for no end")
	fs.BoolVar(&run.untilDirect, "until-direct", false, "stop at the first direct answer; none is a failure")
	fs.BoolVar(&run.asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

// pinger is one run of the command.
type pinger struct {
	api         *nodeapi.Client
	out         io.Writer
	peer        string
	count       int
	untilDirect bool
	asJSON      bool

	answers int
	direct  bool
}

// pingLine is what --json prints for each ping.
type pingLine struct {
	Seq int `json:"seq"`
	*node.PingResult
	Error string `json:"error,omitempty"`
}

func (r *pinger) run(ctx context.Context) error {
	for seq := 0; (r.count == 0 || seq < r.count) && ctx.Err() == nil; seq++ {
		if seq > 0 && cli.Sleep(ctx, pingInterval) != nil {
			break
		}
		if err := r.once(ctx, seq); err != nil {
			return err
		}
		if r.untilDirect && r.direct {
			break
		}
	}
	switch {
	case r.answers == 0:
		return fmt.Errorf("no answer from %s", r.peer)
	case r.untilDirect && !r.direct:
		return fmt.Errorf("no direct path to %s", r.peer)
	}
	return nil
}

// once makes one ping. It returns an error only if further pings would fail too.
func (r *pinger) once(ctx context.Context, seq int) error {
	var result node.PingResult
	err := r.api.Call(ctx, http.MethodPost, "/api/v1/ping", url.Values{"peer": {r.peer}}, &result)
	if ctx.Err() != nil {
		return nil
	}
	said, fromNode := errors.AsType[*nodeapi.Error](err)
	switch {
	case err == nil:
		r.answers++
		r.direct = r.direct || result.Path == node.PathDirect
		return r.show(pingLine{Seq: seq, PingResult: &result})
	case !fromNode:
		return err
	}
	if said.Status == http.StatusGatewayTimeout || r.asJSON {
		if err := r.show(pingLine{Seq: seq, PingResult: &node.PingResult{Peer: r.peer}, Error: said.Text}); err != nil {
			return err
		}
	}
	if said.Status == http.StatusGatewayTimeout {
		return nil
	}
	return err // the request is wrong
}

func (r *pinger) show(l pingLine) error {
	if r.asJSON {
		if l.Error != "" {
			return json.NewEncoder(r.out).Encode(map[string]any{"seq": l.Seq, "peer": l.Peer, "error": l.Error})
		}
		return json.NewEncoder(r.out).Encode(l)
	}
	if l.Error != "" {
		_, err := fmt.Fprintf(r.out, "seq=%d %s\n", l.Seq, l.Error)
		return err
	}
	path := "direct " + l.Endpoint
	if l.Path == node.PathRelay {
		path = "relay " + l.Relay
	}
	_, err := fmt.Fprintf(r.out, "seq=%d from %s via %s in %.1f ms\n", l.Seq, l.Peer, path, l.RTTMS)
	return err
}
