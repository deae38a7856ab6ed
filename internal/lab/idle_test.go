//go:build lab

package lab

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

const (
	idleSettle  = 20 * time.Second // for joining, STUN, and returning memory to the system
	idleMeasure = 30 * time.Second

	maxIdleWakeups = 8.0   // a second
	maxIdleShare   = 0.001 // of one processor

	// idleWindows is the maximum number of measurements, of which the best counts. Other load on
	// the machine only adds to a node's figures: while a thread waits for a processor, Go's sysmon
	// wakes every 20 us.
	idleWindows = 4
)

// cost is what a process has used since its start.
type cost struct {
	at      time.Time
	wakeups int           // voluntary context switches of all threads; a thread wakes before each
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
	// Fields 14 and 15 are utime and stime in units of 1/100 s (proc_pid_stat(5)). The name, field
	// 2, may contain spaces.
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

// assertIdle waits until the nodes are idle, and checks how often they wake and how much processor
// time they use.
func assertIdle(t *testing.T, nodes map[string]*process) {
	t.Helper()
	time.Sleep(idleSettle)
	busy := maps.Clone(nodes)
	for range idleWindows {
		before := make(map[string]cost)
		for name, p := range busy {
			before[name] = p.cost()
		}
		time.Sleep(idleMeasure)
		for name, p := range busy {
			after, before := p.cost(), before[name]
			elapsed := after.at.Sub(before.at).Seconds()
			wakeups := float64(after.wakeups-before.wakeups) / elapsed
			share := (after.used - before.used).Seconds() / elapsed
			t.Logf("%s: %.1f wake-ups a second, %.3f %% of a processor", name, wakeups, 100*share)
			if wakeups <= maxIdleWakeups && share <= maxIdleShare {
				delete(busy, name)
			}
		}
		if len(busy) == 0 {
			return
		}
	}
	for name := range busy {
		t.Errorf("%s: no window had at most %v wake-ups a second and %v %% of a processor", name, maxIdleWakeups,
			100*maxIdleShare)
	}
}

// assertEchoes checks that text comes back on a connection to an echo service.
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

// joinedNodes starts a coordination server and the nodes alpha, beta and gamma, each of which
// serves its echo port. Only beta's host has an echo service.
func joinedNodes(t *testing.T) (hosts map[string]*netns, nodes map[string]*process) {
	t.Helper()
	const url = "http://10.98.1.1:8080"
	hub := newNetns(t, "hub")
	hub.forward()
	hosts, nodes = make(map[string]*netns), make(map[string]*process)
	for i, name := range []string{"alpha", "beta", "gamma"} {
		ns, subnet := newNetns(t, name), fmt.Sprintf("10.98.%d", i+1)
		link(ns, "wan", hub, name)
		hub.addr(name, subnet+".1/24")
		ns.addr("wan", subnet+".2/24")
		ns.route(subnet+".1", "default")
		hosts[name] = ns
	}
	dir := newDir(t, "control")
	server := hub.start("server", ginnelCommand(dir, "control", "serve", "--url", url, "--listen", "10.98.1.1:8080",
		"--state", dir))
	server.await(&server.log, "coordination server is up", dialTimeout)
	admin := func(args ...string) result {
		return hub.run(ginnelCommand(dir, append([]string{"control"}, append(args, "--state", dir)...)...), "")
	}
	secret := strings.TrimSpace(mustDo(t, admin("users", "create", "ann"),
		admin("keys", "create", "--user", "ann", "--reusable")))
	hosts["beta"].startServices("beta")
	for name, ns := range hosts {
		nodes[name] = startGinnel(ns, key.NewNodePrivate(), "up", "--control", url, "--authkey", secret, "--hostname", name,
			"--serve", echoPort+"=127.0.0.1:"+echoPort).process
	}
	return hosts, nodes
}

// dialEcho connects to a host's echo service through the node's proxy, and retries until the node
// reaches it.
func (n *netns) dialEcho(host string) (c net.Conn) {
	n.t.Helper()
	eventually(n.t, n.name+" reaches "+host, dialTimeout, func() bool {
		var err error
		c, err = n.viaSOCKS(defaultProxy, net.JoinHostPort(host, echoPort))
		return err == nil
	})
	n.t.Cleanup(func() { c.Close() })
	return c
}

// An idle node hardly wakes, and works at once when it is needed. The nodes are gamma, which has
// only joined; alpha and beta with an idle connection between them; and a node with a WireGuard
// file that keeps a NAT mapping alive. The test does not run in parallel with others: on a busy
// machine Go's sysmon wakes more often.
func TestIdleNodesRest(t *testing.T) {
	hosts, nodes := joinedNodes(t)
	s := newSite(t)
	plain := s.up(wgFile{peer: []string{"PersistentKeepalive = 25"}})
	nodes["plain"] = plain.process
	kept := map[string]net.Conn{"alpha": hosts["alpha"].dialEcho("beta"), "plain": s.client.dialEcho(innerAddr4)}
	for _, c := range kept {
		assertEchoes(t, c, "before")
	}
	tx := plain.status().Peers[0].TxBytes
	assertIdle(t, nodes)
	if now := plain.status().Peers[0].TxBytes; now == tx {
		t.Error("plain has sent no keepalive")
	}
	for _, c := range kept {
		assertEchoes(t, c, "after")
	}
	assertEchoes(t, hosts["gamma"].dialEcho("beta"), "first use")
}
