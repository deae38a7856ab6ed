package programs

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/ipn/ipnstate"
)

// tailscaled is a stock node in userspace mode.
type tailscaled struct {
	t       *testing.T
	host    *host
	dir     string
	release string   // directory of the programs: empty for the newest, or oldest
	args    []string // further arguments of 'tailscale up'
	env     []string
	wrap    func(*testing.T, *exec.Cmd) *exec.Cmd // if not nil, changes the command that starts the program
	process *process
}

func newTailscaled(t *testing.T, h *host) *tailscaled {
	return &tailscaled{t: t, host: h, dir: t.TempDir()}
}

func (d *tailscaled) machine() *host    { return d.host }
func (d *tailscaled) program() *process { return d.process }

// proxy returns the address of the SOCKS5 proxy, which the hub reaches.
func (d *tailscaled) proxy() string  { return netip.AddrPortFrom(d.host.addr, 1055).String() }
func (d *tailscaled) socket() string { return filepath.Join(d.dir, "socket") }

func (d *tailscaled) daemon() *exec.Cmd {
	cmd := d.host.command(filepath.Join(d.release, "tailscaled"), "--tun=userspace-networking",
		"--socks5-server="+d.proxy(), "--statedir="+d.dir,
		"--socket="+d.socket(), "--port=0", "--no-logs-no-support", "--verbose=1")
	cmd.Env = append(append(bareEnvironment(d.dir), "TS_DISABLE_PORTMAPPER=1", "TS_LOGS_DIR="+d.dir), d.env...)
	if d.wrap != nil {
		return d.wrap(d.t, cmd)
	}
	return cmd
}

// upCommand makes the running daemon join.
func (d *tailscaled) upCommand(server, key string) *exec.Cmd {
	return d.cli(append([]string{"up", "--login-server", server, "--auth-key", key, "--hostname", d.host.name,
		"--timeout", "25s"}, d.args...)...)
}

func (d *tailscaled) up(server, key string) {
	d.t.Helper()
	begun := time.Now()
	d.process = start(d.t, d.host.name+" (tailscaled)", d.daemon())
	if key != "" {
		eventually(d.t, d.host.name+" listens", func() bool { _, err := d.status(); return err == nil })
		run(d.t, d.upCommand(server, key))
	}
	eventually(d.t, d.host.name+" has joined", func() bool {
		d.process.mustRun()
		s, err := d.status()
		return err == nil && s.BackendState == "Running" && s.Self.Relay != ""
	})
	d.t.Logf("%s (tailscaled) is up after %v", d.host.name, time.Since(begun).Round(time.Millisecond))
}

// cli runs the tailscale command for this node.
func (d *tailscaled) cli(args ...string) *exec.Cmd {
	cmd := d.host.command(filepath.Join(d.release, "tailscale"), append([]string{"--socket=" + d.socket()}, args...)...)
	cmd.Env = bareEnvironment(d.dir)
	return cmd
}

func (d *tailscaled) status() (*ipnstate.Status, error) {
	out, err := try(d.cli("status", "--json"))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	s := new(ipnstate.Status)
	return s, json.Unmarshal([]byte(out), s)
}

func (d *tailscaled) dialer() func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var n net.Dialer
		return n.DialContext(ctx, "tcp", d.proxy())
	}
}

func (d *tailscaled) address() netip.Addr {
	d.t.Helper()
	s, err := d.status()
	if err != nil || len(s.TailscaleIPs) == 0 {
		d.t.Fatalf("%s: status: %v", d.host.name, err)
	}
	return s.TailscaleIPs[0]
}

func (d *tailscaled) knows(peer string) bool {
	s, err := d.status()
	return err == nil && peerOf(s, peer) != nil
}

func peerOf(s *ipnstate.Status, name string) *ipnstate.PeerStatus {
	for _, p := range s.Peer {
		if p.DNSName == name+"."+baseDomain+"." {
			return p
		}
	}
	return nil
}

// sees reads the JSON, and checks that the table agrees.
func (d *tailscaled) sees(peer string) presence {
	s, err := d.status()
	if err != nil {
		return presence(err.Error())
	}
	p := peerOf(s, peer)
	if p == nil {
		return unknown
	}
	table, err := try(d.cli("status"))
	if err != nil {
		return presence(table)
	}
	is := offline
	if p.Online {
		is = online
	}
	if line := lineOf(table, peer, 1); strings.Contains(line, "offline") != (is == offline) {
		return presence(line)
	}
	return is
}

// path pings the peer, because without traffic there is no path.
func (d *tailscaled) path(peer string) string {
	out, err := try(d.cli("ping", "-c", "1", "--until-direct=false", "--timeout", "3s", peer))
	switch {
	case err != nil:
		return out + err.Error()
	case strings.Contains(out, "via DERP("):
		return "relay"
	case strings.Contains(out, "via 10.77."), strings.Contains(out, "via ["+prefixes6):
		return "direct"
	}
	return out
}
