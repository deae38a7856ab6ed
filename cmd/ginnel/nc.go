package main

import (
	"bufio"
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
)

func newNC(p program) *cobra.Command {
	var where apiFlags
	cmd := &cobra.Command{
		Use:   "nc HOST PORT",
		Short: "Connect standard input and output to an address in the mesh",
		Long: `nc makes a connection through the running node: what comes on standard input is
sent, what is received goes to standard output, and the end of either is passed on
while the other direction goes on. It is made for ssh's ProxyCommand.

What NO_PROXY or no_proxy exempts, and what is on this machine, is reached without
the node.`,
		Example: `  ginnel nc db.internal 5432
  ssh -o ProxyCommand='ginnel nc %h %p' build-host`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("%s: HOST and PORT are wanted", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := strconv.ParseUint(args[1], 10, 16); err != nil {
				return usagef("PORT %q is not a port", args[1])
			}
			target, err := parseTarget(joinTarget(args[0], args[1]))
			if err != nil {
				return usageError{err}
			}
			t, err := where.connect(cmd.Context(), p, target)
			if err != nil {
				return err
			}
			return (&netcat{conn: t, p: p, sentc: make(chan struct{})}).run(cmd.Context())
		},
	}
	where.add(cmd.Flags())
	return cmd
}

// connect connects to target, host:port: through the node, or without it if the environment exempts
// target from proxies.
func (f *apiFlags) connect(ctx context.Context, p program, target string) (*tunnel, error) {
	if !isExempt(p, target) {
		a, err := f.open(p)
		if err != nil {
			return nil, err
		}
		return a.connect(ctx, target)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, fmt.Errorf("reaching %s without the node, as NO_PROXY has it: %w", target, err)
	}
	return &tunnel{Conn: c, r: bufio.NewReader(c)}, nil
}

// joinTarget puts a port to a host, whose brackets may be there or not.
func joinTarget(host, port string) string {
	if target, err := parseTarget(host); err == nil {
		host = target
	}
	return net.JoinHostPort(host, port)
}

// netcat joins a connection to standard input and output.
type netcat struct {
	conn  *tunnel
	p     program
	sentc chan struct{} // closed at the end of standard input, or of the way out
	wg    sync.WaitGroup
}

// run ends when both directions have ended, or ctx.
func (n *netcat) run(ctx context.Context) error {
	defer n.conn.Close()
	stop := context.AfterFunc(ctx, func() { n.conn.Close() })
	defer stop()
	n.wg.Go(n.send) // and is not awaited: nothing ends a read of standard input
	_, err := io.Copy(n.p.stdout, n.conn)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		if errors.Is(err, syscall.EPIPE) {
			return nil // nobody wants to read any more
		}
		return err
	}
	if c, ok := n.p.stdout.(io.Closer); ok {
		c.Close() // tells the reader
	}
	if f, ok := n.p.stdin.(*os.File); ok && isTerminal(f) {
		return nil // nobody at a terminal waits for a conversation that is over
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
	if _, err := io.Copy(n.conn.Conn, n.p.stdin); err != nil {
		return // the other direction shows what is wrong
	}
	n.conn.CloseWrite()
}
