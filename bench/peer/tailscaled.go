package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
)

// tailscaled is the stock node in userspace mode.
type tailscaled struct {
	machine
	server, key string
}

func newTailscaled(m machine, c *control) Node { return &tailscaled{m, c.url(), c.key} }

func (d *tailscaled) socket() string { return filepath.Join(d.dir, "socket") }

// Start runs the daemon, and 'tailscale up' as soon as the daemon listens.
func (d *tailscaled) Start(ctx context.Context) error {
	err := d.start("tailscaled", "--tun=userspace-networking", "--socks5-server="+socksAddr,
		"--outbound-http-proxy-listen="+httpAddr, "--statedir="+d.dir, "--socket="+d.socket(), "--port=0",
		"--no-logs-no-support")
	if err != nil {
		return err
	}
	return d.process.Until(ctx, "tailscale up succeeds", func(ctx context.Context) error {
		_, err := d.cli(ctx, "up", "--login-server", d.server, "--auth-key", d.key, "--hostname", d.host.Name)
		return err
	})
}

func (d *tailscaled) cli(ctx context.Context, args ...string) ([]byte, error) {
	return d.ask(ctx, "tailscale", append([]string{"--socket=" + d.socket()}, args...)...)
}

func (d *tailscaled) Ready(ctx context.Context) (addr netip.Addr, err error) {
	var s struct {
		BackendState string
		TailscaleIPs []netip.Addr
		Self         struct{ Relay string }
	}
	err = d.process.Until(ctx, "it has joined", func(ctx context.Context) error {
		out, err := d.cli(ctx, "status", "--json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		if s.BackendState != "Running" || s.Self.Relay == "" || len(s.TailscaleIPs) == 0 {
			return fmt.Errorf("it is %s, with relay %q", s.BackendState, s.Self.Relay)
		}
		addr = s.TailscaleIPs[0]
		return nil
	})
	return addr, err
}

func (d *tailscaled) Path(ctx context.Context, peer string) (Path, error) {
	out, err := d.cli(ctx, "ping", "-c", "1", "--until-direct=false", "--timeout", "3s", peer)
	switch {
	case err != nil:
		return "", err
	case bytes.Contains(out, []byte("via DERP(")):
		return RelayPath, nil
	case bytes.Contains(out, []byte(" via ")):
		return DirectPath, nil
	}
	return "", fmt.Errorf("unexpected output of tailscale ping: %q", out)
}
