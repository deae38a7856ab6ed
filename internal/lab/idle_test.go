//go:build lab

package lab

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ginnel/internal/key"
)

const (
	idleSettle  = 20 * time.Second // for joining, STUN, and giving memory back
	idleMeasure = 30 * time.Second

	maxIdleWakeups = 8.0   // a second
	maxIdleShare   = 0.001 // of one processor
)

// cost is what a process has used since it began.
type cost struct {
	at      time.Time
	wakeups int           // voluntary context switches of all threads: each is a thread that was woken before
	used    time.Duration // processor time
}

func (p *process) cost() (c cost) {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	threads, err := filepath.Glob(dir + "/task/*/status")
	if err != nil || len(threads) == 0 {
		p.t.Fatalf("threads of %s: %d, %v", p.name, len(threads), err)
	}
	c.at = time.Now()
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		count, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			p.t.Fatalf("%s: %v", path, err)
		}
		c.wakeups += n
	}
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		p.t.Fatal(err)
	}
	// Fields 14 and 15 are utime and stime in units of 1/100 s (proc_pid_stat(5)). The name, field 2, may hold spaces.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			p.t.Fatal(err)
		}
		c.used += time.Duration(n) * (time.Second / 100)
	}
	return c
}

// assertIdle waits until nodes are idle, and checks how often they wake and how much processor time they use.
func assertIdle(t *testing.T, nodes map[string]*process) {
	t.Helper()
	time.Sleep(idleSettle)
	before := make(map[string]cost)
	for name, p := range nodes {
		before[name] = p.cost()
	}
	time.Sleep(idleMeasure)
	for name, p := range nodes {
		after, before := p.cost(), before[name]
		elapsed := after.at.Sub(before.at).Seconds()
		wakeups := float64(after.wakeups-before.wakeups) / elapsed
		share := (after.used - before.used).Seconds() / elapsed
		t.Logf("%s: %.1f wake-ups a second, %.3f %% of a processor", name, wakeups, 100*share)
		if wakeups > maxIdleWakeups {
			t.Errorf("%s wakes %.1f times a second, want %v at the most", name, wakeups, maxIdleWakeups)
		}
		if share > maxIdleShare {
			t.Errorf("%s uses %.3f %% of a processor, want %v %% at the most", name, 100*share, 100*maxIdleShare)
		}
	}
}

// assertEchoes checks that a connection to an echo service works.
func assertEchoes(t *testing.T, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(dialTimeout))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("sending %q: %v", text, err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

// Nodes that have joined a network rest when there is nothing to do, with and without an idle connection, and are there at
// once when there is.
func TestIdleNodesRest(t *testing.T) {
	t.Parallel()
	const url = "http://10.98.1.1:8080"
	hub := newNetns(t, "hub")
	hub.forward()
	hosts := make(map[string]*netns)
	for i, name := range []string{"alpha", "beta", "gamma"} {
		ns, subnet := newNetns(t, name), fmt.Sprintf("10.98.%d", i+1)
		link(ns, "wan", hub, name)
		hub.addr(name, subnet+".1/24")
		ns.addr("wan", subnet+".2/24")
		ns.route(subnet+".1", "default")
		hosts[name] = ns
	}
	dir := newDir(t, "control")
	server := hub.start("server", ginnelCommand(dir, "control", "serve", "--url", url, "--listen", "10.98.1.1:8080", "--state", dir))
	server.await(&server.log, "coordination server is up", dialTimeout)
	admin := func(args ...string) result {
		return hub.run(ginnelCommand(dir, append([]string{"control"}, append(args, "--state", dir)...)...), "")
	}
	secret := strings.TrimSpace(mustDo(t, admin("users", "create", "ann"), admin("keys", "create", "--user", "ann", "--reusable")))
	hosts["beta"].startServices("beta")
	nodes := make(map[string]*process)
	for name, ns := range hosts {
		g := startGinnel(ns, key.NewNodePrivate(), "up", "--control", url, "--authkey", secret, "--hostname", name,
			"--serve", echoPort+"=127.0.0.1:"+echoPort)
		nodes[name] = g.process
	}
	dialBeta := func(from string) (c net.Conn) {
		t.Helper()
		eventually(t, from+" reaches beta", dialTimeout, func() bool {
			var err error
			c, err = hosts[from].viaSOCKS(defaultProxy, net.JoinHostPort("beta", echoPort))
			return err == nil
		})
		t.Cleanup(func() { c.Close() })
		return c
	}
	kept := dialBeta("alpha")
	assertEchoes(t, kept, "before")
	assertIdle(t, nodes)
	assertEchoes(t, kept, "after")
	assertEchoes(t, dialBeta("gamma"), "the first")
}

// So does a node with a WireGuard file, which keeps the mapping of a NAT alive.
func TestIdlePlainNodeRests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{peer: []string{"PersistentKeepalive = 25"}})
	c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	assertEchoes(t, c, "before")
	tx := g.status().Peers[0].TxBytes
	assertIdle(t, map[string]*process{"plain": g.process})
	if now := g.status().Peers[0].TxBytes; now == tx {
		t.Error("no keepalive was sent")
	}
	assertEchoes(t, c, "after")
}
