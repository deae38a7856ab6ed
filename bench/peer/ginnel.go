package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
)

// ginnel is our node.
type ginnel struct {
	machine
	join []string // flags that select the network
}

func newGinnel(m machine, c *control) Node {
	return &ginnel{m, []string{"--control", c.url(), "--authkey", c.key, "--hostname", m.host.Name}}
}

func (g *ginnel) Start(context.Context) error {
	args := append([]string{"up", "--state", g.state(), "--proxy", socksAddr, "--mesh-only",
		"--serve", fmt.Sprintf("%d=%[1]d", ServicePort), "--serve", fmt.Sprintf("%d=%[1]d/udp", ServicePort)}, g.join...)
	return g.start("ginnel", args...)
}

func (g *ginnel) state() string { return filepath.Join(g.dir, "state") }

func (g *ginnel) Ready(ctx context.Context) (addr netip.Addr, err error) {
	var s struct {
		State string
		Self  struct{ Addresses []netip.Addr }
	}
	err = g.process.Until(ctx, "it has joined", func(ctx context.Context) error {
		out, err := g.ask(ctx, "ginnel", "status", "--json", "--state", g.state())
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		if s.State != "running" || len(s.Self.Addresses) == 0 {
			return fmt.Errorf("it is %s", s.State)
		}
		addr = s.Self.Addresses[0]
		return nil
	})
	return addr, err
}

func (g *ginnel) Path(ctx context.Context, peer string) (Path, error) {
	out, err := g.ask(ctx, "ginnel", "ping", peer, "-c", "1", "--json", "--state", g.state())
	if err != nil {
		return "", err
	}
	var r struct{ Path Path }
	if err := json.Unmarshal(out, &r); err != nil {
		return "", fmt.Errorf("reading the answer to a ping: %w: %s", err, out)
	}
	return r.Path, nil
}
