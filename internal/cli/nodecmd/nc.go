package nodecmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/internal/cli/proxyenv"
)

// NewNC returns the command nc.
func NewNC(p cli.Program) *cobra.Command {
	var o ncOptions
	cmd := &cobra.Command{
		Use:   "nc HOST PORT",
		Short: "Connect standard input and output to an address in the mesh",
		Long: `nc connects standard input and output to an address through the running node. The
end of one direction is passed on while the other direction continues. Its use is
ssh's ProxyCommand.

Hosts that NO_PROXY or no_proxy exempts, and this machine, are reached without the
node.`,
		Example: `  ginnel nc db.internal 5432
  ssh -o ProxyCommand='ginnel nc %h %p' build-host`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.Usagef("%s needs HOST and PORT", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), p, args[0], args[1]) },
	}
	o.where.Add(cmd.Flags())
	return cmd
}

// ncOptions say through which node the connection goes.
type ncOptions struct{ where nodeapi.Flags }

func (o *ncOptions) run(ctx context.Context, p cli.Program, host, port string) error {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return cli.Usagef("PORT %q is not a port", port)
	}
	target, err := cli.ParseTarget(joinTarget(host, port))
	if err != nil {
		return cli.Usage(err)
	}
	conn, err := o.connect(ctx, p, target)
	if err != nil {
		return err
	}
	return (&netcat{conn: conn, p: p, sentc: make(chan struct{})}).run(ctx)
}

// connect connects to target, host:port, through the node. If the environment exempts target from
// proxies, it connects without the node.
func (o *ncOptions) connect(ctx context.Context, p cli.Program, target string) (net.Conn, error) {
	if !proxyenv.IsExempt(p, target) {
		a, err := o.where.Open(p)
		if err != nil {
			return nil, err
		}
		return a.Connect(ctx, target)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, fmt.Errorf("reaching %s without the node, as NO_PROXY has it: %w", target, err)
	}
	return c, nil
}

// joinTarget joins host and port. An IPv6 address may have brackets.
func joinTarget(host, port string) string {
	if target, err := cli.ParseTarget(host); err == nil {
		host = target
	}
	return net.JoinHostPort(host, port)
}

// netcat joins a connection to standard input and output.
type netcat struct {
	conn  net.Conn
	p     cli.Program
	sentc chan struct{} // closed when send has ended
	wg    sync.WaitGroup
}

// run returns when both directions have ended, or ctx.
func (n *netcat) run(ctx context.Context) error {
	defer n.conn.Close()
	stop := context.AfterFunc(ctx, func() { n.conn.Close() })
	defer stop()
	n.wg.Go(n.send) // not awaited, because nothing interrupts a read of standard input
	_, err := io.Copy(n.p.Stdout, n.conn)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		if errors.Is(err, syscall.EPIPE) {
			return nil // the reader has left
		}
		return err
	}
	if c, ok := n.p.Stdout.(io.Closer); ok {
		c.Close() // the reader sees the end
	}
	if f, ok := n.p.Stdin.(*os.File); ok && cli.IsTerminal(f) {
		return nil // the user would have to press Ctrl-D
	}
	select {
	case <-n.sentc:
	case <-ctx.Done():
	}
	return nil
}

// send passes standard input on to its end.
func (n *netcat) send() {
	defer close(n.sentc)
	if _, err := io.Copy(n.conn, n.p.Stdin); err != nil {
		return // the other direction fails too, and reports it
	}
	if c, ok := n.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
