package programs

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nodepkg "ginnel/node"
)

// ginnel is our node: the program as it is installed.
type ginnel struct {
	t       *testing.T
	host    *host
	dir     string
	args    []string // further arguments of 'ginnel up'
	env     []string
	wrap    func(*testing.T, *exec.Cmd) *exec.Cmd // if not nil, changes the command that starts the program
	process *process
}

func newGinnel(t *testing.T, h *host) *ginnel { return &ginnel{t: t, host: h, dir: t.TempDir()} }

func (g *ginnel) machine() *host    { return g.host }
func (g *ginnel) program() *process { return g.process }

// proxy is a Unix socket, because its path is reachable from every network namespace.
func (g *ginnel) proxy() string { return filepath.Join(g.dir, "proxy") }
func (g *ginnel) state() string { return filepath.Join(g.dir, "state") }

func (g *ginnel) upCommand(server, key string) *exec.Cmd {
	args := []string{"up", "--control", server, "--state", g.state(), "--proxy", "unix:" + g.proxy(),
		"--hostname", g.host.name, "--serve", "8000=8000", "--serve", "8001=8001", "--serve", "8002=8002", "--mesh-only",
		"--log-level", "debug", "--log-format", "text"}
	if key != "" {
		args = append(args, "--authkey", key)
	}
	cmd := g.host.command("ginnel", append(args, g.args...)...)
	cmd.Env = append(bareEnvironment(g.dir), g.env...)
	if g.wrap != nil {
		return g.wrap(g.t, cmd)
	}
	return cmd
}

func (g *ginnel) up(server, key string) {
	g.t.Helper()
	g.process = start(g.t, g.host.name+" (ginnel)", g.upCommand(server, key))
	took := eventually(g.t, g.host.name+" has joined", func() bool {
		g.process.mustRun()
		s, err := g.status()
		return err == nil && (s.State == nodepkg.StateRunning || lacksExit(s))
	})
	g.t.Logf("%s (ginnel) is up after %v", g.host.name, took.Round(time.Millisecond))
}

// lacksExit reports whether a node has joined and only its exit node is missing.
func lacksExit(s nodepkg.Status) bool {
	return s.State == nodepkg.StateStarting && len(s.Self.Addresses) > 0 && strings.HasPrefix(s.Reason, "exit node ")
}

// status returns the result of 'ginnel status'.
func (g *ginnel) status() (s nodepkg.Status, err error) {
	out, err := try(exec.Command(binary("ginnel"), "status", "--json", "--state", g.state()))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

func (g *ginnel) dialer() func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", g.proxy())
	}
}

func (g *ginnel) address() netip.Addr {
	g.t.Helper()
	s, err := g.status()
	if err != nil || len(s.Self.Addresses) == 0 {
		g.t.Fatalf("%s: status: %v, %v", g.host.name, s.Self.Addresses, err)
	}
	return s.Self.Addresses[0]
}

func (g *ginnel) knows(peer string) bool {
	s, err := g.status()
	return err == nil && slices.ContainsFunc(s.Peers, func(p nodepkg.PeerStatus) bool { return p.Name == peer })
}

// sees reads the JSON, and checks that the table agrees.
func (g *ginnel) sees(peer string) presence {
	s, err := g.status()
	if err != nil {
		return presence(err.Error())
	}
	i := slices.IndexFunc(s.Peers, func(p nodepkg.PeerStatus) bool { return p.Name == peer })
	if i < 0 {
		return unknown
	}
	table, err := try(exec.Command(binary("ginnel"), "status", "--state", g.state()))
	if err != nil {
		return presence(table)
	}
	is := online
	if p := s.Peers[i]; p.Online == nil || !*p.Online {
		is = offline
	}
	if line := lineOf(table, peer, 0); strings.Contains(line, "offline") != (is == offline) {
		return presence(line)
	}
	return is
}

// lineOf returns the line of a table that has name in the column.
func lineOf(table, name string, column int) string {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > column && f[column] == name {
			return line
		}
	}
	return "no line with " + name
}

// path pings the peer, because without traffic there is no path.
func (g *ginnel) path(peer string) string {
	out, err := try(exec.Command(binary("ginnel"), "ping", peer, "-c", "1", "--json", "--state", g.state()))
	if err != nil {
		return out + err.Error()
	}
	var r nodepkg.PingResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return err.Error()
	}
	return string(r.Path)
}
