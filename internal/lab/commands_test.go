//go:build lab

package lab

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ginnel/node"
)

// "ginnel status" and "ginnel ping" report, as text and as JSON, on the node that runs with the
// same home directory. The exit status of ping says whether the peer answered.
func TestStatusAndPing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	if p := g.status().Peers[0]; p.Path != node.PathNone {
		t.Errorf("path before any traffic is %q, want none", p.Path)
	}
	for _, host := range []string{peerAddr4, peerAddr6, innerAddr4, innerAddr6} {
		r := g.command("ping", host, "-c", "1")
		want := regexp.MustCompile(`^seq=0 from \[.{5}\] via direct 203\.0\.113\.2:51820 in [0-9.]+ ms\n$`)
		if r.status != 0 || !want.MatchString(r.stdout) {
			t.Errorf("ping %s: status %d, %q %q", host, r.status, r.stdout, r.stderr)
		}
	}
	assertPingJSON(t, g)
	assertStatus(t, g)
	assertFailedPings(t, g)
}

func assertPingJSON(t *testing.T, g *ginnel) {
	t.Helper()
	r := g.command("ping", peerAddr4, "-c", "2", "--json")
	for i, line := range strings.Split(strings.TrimSpace(r.stdout), "\n") {
		var got struct {
			Seq            int
			Path, Endpoint string
			RTT            float64 `json:"rtt_ms"`
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Seq != i || got.Path != "direct" ||
			got.Endpoint != endpoint4 || got.RTT <= 0 || got.RTT > 1000 {
			t.Errorf("ping --json: line %d is %q (%v)", i, line, err)
		}
	}
	if n := strings.Count(r.stdout, "\n"); n != 2 || r.status != 0 {
		t.Errorf("ping -c 2 --json: status %d, %d lines", r.status, n)
	}
}

func assertStatus(t *testing.T, g *ginnel) {
	t.Helper()
	st := g.status()
	p := st.Peers[0]
	if st.State != node.StateRunning || fmt.Sprint(st.Self.Addresses) != "[10.77.0.2 fd77::2]" ||
		fmt.Sprint(st.Proxies) != "["+defaultProxy+"]" || len(st.Health) > 0 {
		t.Errorf("status of the node is %+v", st)
	}
	if p.Path != node.PathDirect || p.Endpoint != endpoint4 || p.RxBytes == 0 || p.TxBytes == 0 ||
		time.Since(p.LastHandshake) > time.Minute {
		t.Errorf("status of the peer is %+v", p)
	}
	byState, byProxy := g.command("status"), g.command("status", "--proxy", defaultProxy)
	for _, want := range []string{"running", nodeAddr4, nodeAddr6, defaultProxy, "direct " + endpoint4, "10.88.0.0/24",
		"ago"} {
		if !strings.Contains(byState.stdout, want) {
			t.Errorf("status lacks %q:\n%s", want, byState.stdout)
		}
	}
	if byProxy.status != 0 || !strings.Contains(byProxy.stdout, "direct "+endpoint4) {
		t.Errorf("status --proxy: %+v", byProxy)
	}
}

func assertFailedPings(t *testing.T, g *ginnel) {
	t.Helper()
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"ping", "203.0.113.77", "-c", "1"}, 1, `no such peer: "203.0.113.77"`},
		{[]string{"ping", "nosuch", "-c", "1"}, 1, `no such peer: "nosuch"`},
		{[]string{"ping", "10.77.0.77", "-c", "1"}, 1, "no answer from 10.77.0.77"},
		{[]string{"ping", "10.77.0.77", "-c", "1", "--json"}, 1, `"error":`},
		{[]string{"ping", peerAddr4, "-c", "1", "--proxy", defaultProxy}, 0, "via direct"},
		{[]string{"ping"}, 2, "PEER is missing"},
		{[]string{"status", "--state", filepath.Join(g.home, "other")}, 1, "no node runs on the state directory"},
		{[]string{"status", "--proxy", "127.0.0.1:1"}, 1, "connection refused"},
	} {
		r := g.command(c.args...)
		if r.status != c.status || !strings.Contains(r.stdout+r.stderr, c.want) {
			t.Errorf("ginnel %s: status %d, %q %q, want %d and %q", strings.Join(c.args, " "), r.status, r.stdout, r.stderr,
				c.status, c.want)
		}
	}
}

// A second node does not disturb the first. It names what is in use: the state directory, the
// proxy's port, or the UDP port.
func TestTwoNodesOnOneHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{iface: []string{"ListenPort = 40000"}})
	file := s.file(wgFile{})
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--proxy", "127.0.0.1:1081"}, "another ginnel runs on the state directory " + g.home},
		{[]string{"--state", "mem:"}, "127.0.0.1:1080: bind: address already in use"},
		{[]string{"--state", "mem:", "--proxy", "127.0.0.1:1081", "--udp-port", "40000"}, "opening UDP port 40000"},
		{[]string{"--state", "mem:", "--proxy", "127.0.0.1:1081", "-L", "1080:10.88.0.2:80"},
			"opening the forward to 10.88.0.2:80"},
	} {
		r := g.command(append([]string{"up", "--wireguard", file}, c.args...)...)
		if r.status != 1 || !strings.Contains(r.stderr, c.want) {
			t.Errorf("up %q: status %d, %q, want 1 and %q", c.args, r.status, r.stderr, c.want)
		}
	}
	if c, err := s.client.viaSOCKS(defaultProxy, web(innerAddr4)); err != nil {
		t.Errorf("the first node does not work any more: %v", err)
	} else {
		c.Close()
	}
	g.end()
}

// The proxy on a unix socket serves tools and ginnel's commands, and only its owner may open it. A
// node replaces the socket file of a process that was killed.
func TestUnixProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	socket := filepath.Join(s.dir, "proxy.sock")
	g := s.up(wgFile{}, "--proxy", "unix:"+socket)
	g.kill()
	time.Sleep(betweenHandshakes)
	h := launchGinnel(s.client, s.key, ginnelCommand(g.home, "up", "--wireguard", s.file(wgFile{}),
		"--proxy", "unix:"+socket))
	h.await(&h.log, `"msg":"node up"`, dialTimeout)
	r := s.client.tool(curl("-x", "socks5h://localhost"+socket, "http://"+web(innerAddr4))...)
	if !strings.HasPrefix(r.stdout, "inner for") {
		t.Errorf("curl through the unix socket: %+v", r)
	}
	if r := h.command("ping", peerAddr4, "-c", "1"); r.status != 0 {
		t.Errorf("ping through the unix socket: %+v", r)
	}
	if r := s.client.tool("stat", "-c", "%a", socket); r.stdout != "600\n" {
		t.Errorf("the socket's mode is %q, want 600", r.stdout)
	}
	h.end()
	if r := s.client.tool("stat", socket); r.status == 0 {
		t.Error("the socket file is left after the node has ended")
	}
}
