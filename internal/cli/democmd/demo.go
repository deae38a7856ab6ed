package democmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/node"
)

const (
	// demoTimeout bounds each step of the demo.
	demoTimeout = 20 * time.Second
	demoPoll    = 5 * time.Millisecond
)

// New returns the command demo.
func New(p cli.Program) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole mesh in this process and fetch a private page through it",
		Long: `demo runs, on loopback and without privileges, a coordination server, a relay with
STUN, two nodes that join with a key, and a web service that only one of them can
reach. The other fetches the page through its SOCKS5 and HTTP proxy: over the
relay first, then over the direct path that the nodes find once UDP gets through.`,
		Example: `  ginnel demo
  ginnel demo --once`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{out: p.Stdout, start: time.Now(), mesh: demoMesh{version: p.BuildVersion()}}
			defer d.mesh.close()
			if err := d.run(cmd.Context()); err != nil {
				return err
			}
			if once {
				d.say("done: the page came through SOCKS5 and HTTP, over the relay and over the direct path")
			} else {
				d.stay(cmd.Context())
			}
			return d.err
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "exit after a fetch over each path")
	return cmd
}

// demo tells what happens, each line with the time since the start.
type demo struct {
	out   io.Writer
	start time.Time
	mesh  demoMesh
	err   error // of the first output that failed
}

func (d *demo) say(format string, args ...any) {
	d.printf("%6.0f ms  %s\n", float64(time.Since(d.start).Microseconds())/1000, fmt.Sprintf(format, args...))
}

func (d *demo) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(d.out, format, args...); d.err == nil {
		d.err = err
	}
}

// run fetches the page over each path.
func (d *demo) run(ctx context.Context) error {
	if err := d.setUp(ctx); err != nil {
		return err
	}
	if err := d.fetchOver(ctx, node.PathRelay); err != nil {
		return err
	}
	if err := d.upgrade(ctx); err != nil {
		return err
	}
	return d.fetchOver(ctx, node.PathDirect)
}

// stay keeps the mesh for the user until ctx ends.
func (d *demo) stay(ctx context.Context) {
	proxy := d.mesh.here.Status().Proxies[0]
	d.printf("\nTry it, and look at the node at http://%s/ :\n\n", proxy)
	d.printf("    curl --proxy socks5h://%s http://%s/\n\nCtrl-C ends the demo.\n", proxy, thereName)
	if d.err == nil {
		<-ctx.Done()
	}
}

func (d *demo) setUp(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "ginnel-demo-") // for the certificate, which is needed only once
	if err != nil {
		return err
	}
	err = d.mesh.startRelay(dir)
	os.RemoveAll(dir)
	if err != nil {
		return err
	}
	d.say("relay and STUN server on %s, certificate pin %.24s...", d.mesh.relayAddr, d.mesh.pin)
	if err := d.mesh.startService(); err != nil {
		return err
	}
	d.say("a private web service on %s", d.mesh.service)
	if err := d.mesh.startControl(ctx); err != nil {
		return err
	}
	d.say("coordination server at %s, with a key to join", d.mesh.coordURL)
	if err := d.join(ctx, thereName, d.mesh.startThere); err != nil {
		return err
	}
	d.say("which serves the page as port 80 to the mesh")
	if err := d.join(ctx, hereName, d.mesh.startHere); err != nil {
		return err
	}
	d.say("which offers SOCKS5 and HTTP on %s", d.mesh.here.Status().Proxies[0])
	return nil
}

// join starts a node and waits until it has joined.
func (d *demo) join(ctx context.Context, name string, start func() error) error {
	if err := start(); err != nil {
		return err
	}
	n := d.mesh.node(name)
	err := d.until(ctx, name+" to join", func() bool { return n.Status().State == node.StateRunning })
	if err != nil {
		return err
	}
	d.say("node %q has registered, has its map, and is connected to the relay: %v", name, n.Status().Self.Addresses[0])
	return nil
}

// fetchOver fetches the page through both kinds of proxy and makes sure which way it came.
func (d *demo) fetchOver(ctx context.Context, want node.PathKind) error {
	for _, scheme := range []string{"socks5h", "http"} {
		before := d.mesh.relayed()
		text, err := d.fetch(ctx, scheme)
		if err != nil {
			return err
		}
		relayed := d.mesh.relayed() - before
		if (relayed > 0) != (want == node.PathRelay) {
			return fmt.Errorf("the page came %s, but %d packets went through the relay", by(want), relayed)
		}
		d.say("fetched http://%s/ by %s %s: %q", thereName, strings.ToUpper(strings.TrimSuffix(scheme, "h")), by(want), text)
	}
	return nil
}

func by(path node.PathKind) string {
	if path == node.PathRelay {
		return "over the relay"
	}
	return "over the direct path"
}

func (d *demo) fetch(ctx context.Context, scheme string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	proxy := &url.URL{Scheme: scheme, Host: d.mesh.here.Status().Proxies[0]}
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+thereName+"/", nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("fetching the page by %s: %w", scheme, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", fmt.Errorf("fetching the page by %s: %w", scheme, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetching the page by %s: %s: %s", scheme, resp.Status, b)
	}
	return strings.TrimSpace(string(b)), nil
}

// upgrade lets UDP through, and waits for the direct path that the nodes find.
func (d *demo) upgrade(ctx context.Context) error {
	d.say("UDP, held back so far, gets through: the nodes look for a direct path")
	d.mesh.udp.open.Store(true)
	for _, n := range []*node.Node{d.mesh.here, d.mesh.there} {
		n.NetworkChanged()
	}
	if _, err := d.mesh.here.Ping(ctx, thereName); err != nil {
		return err
	}
	var s node.PeerStatus
	err := d.until(ctx, "a direct path", func() bool {
		s = d.mesh.here.Status().Peers[0]
		return s.Path == node.PathDirect && d.mesh.there.Status().Peers[0].Path == node.PathDirect
	})
	if err != nil {
		return err
	}
	d.say("direct path to %q: UDP %s, %.2f ms", thereName, s.Endpoint, s.LatencyMS)
	return nil
}

func (d *demo) until(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	for !done() {
		if err := cli.Sleep(ctx, demoPoll); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("waiting for %s: nothing for %v", what, demoTimeout)
			}
			return fmt.Errorf("waiting for %s: interrupted", what)
		}
	}
	return nil
}

// tcpAddr is an address for a listener.
type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }

var _ net.Addr = tcpAddr("")
