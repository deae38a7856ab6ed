//go:build lab

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/node"
)

// defaultProxy is the proxy's address unless --proxy gives another.
const defaultProxy = "127.0.0.1:1080"

// ginnel is the program under test as a running process, without privileges.
type ginnel struct {
	*process
	ns      *netns
	home    string
	secrets [][key.Size]byte
	started time.Time
}

// ginnelCommand runs ginnel without privileges, with home as its home directory.
func ginnelCommand(home string, args ...string) command {
	return command{args: append([]string{programs.ginnel}, args...), env: []string{"HOME=" + home}}
}

// startGinnel starts "ginnel up" with args and waits until the node is up.
func startGinnel(ns *netns, secret key.NodePrivate, args ...string) *ginnel {
	ns.t.Helper()
	g := launchGinnel(ns, secret, ginnelCommand(newDir(ns.t, "home"), args...))
	g.await(&g.log, `"msg":"node up"`, dialTimeout)
	return g
}

// launchGinnel starts ginnel without waiting. At the end of the test its output is searched for
// panics and secrets.
func launchGinnel(ns *netns, secret key.NodePrivate, c command) *ginnel {
	ns.t.Helper()
	g := &ginnel{ns: ns, secrets: [][key.Size]byte{secret.Raw()}, started: time.Now()}
	for _, kv := range c.env {
		if home, ok := strings.CutPrefix(kv, "HOME="); ok {
			g.home = home
		}
	}
	g.process = ns.start("ginnel in "+ns.name, c)
	ns.t.Cleanup(func() { assertSound(ns.t, g.name, g.out.String()+g.log.String(), g.secrets...) })
	return g
}

// assertTokenHidden checks that the node has not printed the token of its API.
func (g *ginnel) assertTokenHidden() {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.home, ".local", "state", "ginnel", "node.json"))
	if err != nil {
		g.t.Error(err)
		return
	}
	var running struct{ Token string }
	if err := json.Unmarshal(text, &running); err != nil || running.Token == "" {
		g.t.Errorf("no token in %q: %v", text, err)
	}
	if strings.Contains(g.out.String()+g.log.String(), running.Token) {
		g.t.Error("the node shows the token of its API")
	}
}

// assertSound checks that the output of a program contains neither a panic nor a secret.
func assertSound(t *testing.T, where, text string, secrets ...[key.Size]byte) {
	t.Helper()
	for _, bad := range []string{"panic:", "fatal error:", "goroutine 1 [", "internal error"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("%s wrote %q:\n%s", where, bad, tail(text[i:min(len(text), i+4<<10)]))
		}
	}
	for _, s := range secrets {
		assertHidden(t, where, text, s)
	}
}

// command runs another ginnel command against this node.
func (g *ginnel) command(args ...string) result {
	g.t.Helper()
	r := g.ns.run(ginnelCommand(g.home, args...), "")
	assertSound(g.t, "ginnel "+strings.Join(args, " "), r.stdout+r.stderr, g.secrets...)
	return r
}

// status returns the output of "ginnel status --json".
func (g *ginnel) status() (s node.Status) {
	g.t.Helper()
	r := g.command("status", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &s); r.status != 0 || err != nil {
		g.t.Fatalf("ginnel status --json: exit status %d, %v: %s%s", r.status, err, r.stdout, r.stderr)
	}
	return s
}

// end terminates the node and checks that it leaves no process and no file behind.
func (g *ginnel) end() {
	g.t.Helper()
	pid := g.cmd.Process.Pid
	status, took := g.terminate()
	if status != 0 {
		g.t.Errorf("ginnel ended with status %d after SIGTERM, want 0", status)
	}
	if took > 3*time.Second {
		g.t.Errorf("ginnel took %v to end", took)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		g.t.Errorf("process %d is still there", pid)
	}
	g.assertNoFiles()
}

// assertNoFiles checks that the node has left no file in its home except the lock of the state
// directory.
func (g *ginnel) assertNoFiles() {
	g.t.Helper()
	filepath.WalkDir(g.home, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(path) != "lock" {
			g.t.Errorf("ginnel left %s behind", strings.TrimPrefix(path, g.home))
		}
		return nil
	})
}

// sockets lists the TCP listeners and the unconnected UDP sockets of the namespace.
func (n *netns) sockets() (all []string) {
	n.t.Helper()
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		var text []byte
		err := n.do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + proto)
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			f := strings.Fields(line)
			const listens, unconnected = "0A", "07"
			if len(f) > 3 && (f[3] == listens || f[3] == unconnected) {
				all = append(all, proto+" "+f[1])
			}
		}
	}
	return all
}
