package nodecmd

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/internal/cli/statedir"
)

const (
	downPatience = 15 * time.Second // for a node to end
	downPoll     = 10 * time.Millisecond
)

// ownNode names a running node by its state directory. Only its user may end it.
type ownNode struct {
	config string
	state  string
}

func (f *ownNode) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings, as for 'ginnel up'")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory of the node, as for 'ginnel up'")
}

// dir is the state directory.
func (f *ownNode) dir(p cli.Program) string {
	if f.state != "" {
		return f.state
	}
	return statedir.Default(p)
}

// NewDown returns the command down.
func NewDown(p cli.Program) *cobra.Command {
	var which ownNode
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the running node",
		Long: `down stops the node that runs on the state directory, and waits for its end. An
ephemeral node leaves its network; any other stays registered there.`,
		Example: `  ginnel down
  ginnel down --state /run/ginnel`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return endNode(cmd.Context(), which.dir(p), url.Values{})
		},
	}
	which.add(cmd.Flags())
	return cmd
}

// endNode tells the node on a state directory to end, and waits until it has.
func endNode(ctx context.Context, dir string, how url.Values) error {
	r, err := statedir.FindRunning(dir)
	if err != nil {
		return err
	}
	network, addr := cli.HostPort(r.Proxies[0])
	a := nodeapi.New(network, addr, r.Token)
	if err := a.Call(ctx, http.MethodPost, "/api/v1/shutdown", how, &struct{}{}); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, downPatience)
	defer cancel()
	for statedir.IsLocked(dir) {
		if cli.Sleep(limited, downPoll) != nil {
			return fmt.Errorf("the node (process %d) was told to end %v ago, and still runs", r.PID, downPatience)
		}
	}
	return nil
}
