//go:build lab

package lab

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metric reads a value of the node's /metrics, for example
// ginnel_proxy_refused_total{reason="handshake"}.
func metric(t *testing.T, ns *netns, name string) float64 {
	t.Helper()
	_, body := ns.get(t, "http://"+defaultProxy+"/metrics")
	for line := range strings.Lines(string(body)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s in\n%s", name, body)
	return 0
}

// residentMB returns the resident memory of the process in MiB.
func (p *process) residentMB() int {
	p.t.Helper()
	return p.memoryMB("VmRSS")
}

// memoryMB returns a field of /proc/PID/status in MiB.
func (p *process) memoryMB(field string) int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), field+":")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return kb / 1024
}

// fetchLoop is a well-behaved client: it fetches a page again and again through the proxy and
// records the slowest fetch.
type fetchLoop struct {
	n, failed int
	slowest   time.Duration
	stopc     chan struct{}
	done      chan struct{}
}

func (n *netns) startFetchLoop(host string) *fetchLoop {
	f := &fetchLoop{stopc: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for {
			select {
			case <-f.stopc:
				return
			case <-time.After(20 * time.Millisecond):
			}
			start := time.Now()
			err := n.fetch(host)
			f.n++
			f.slowest = max(f.slowest, time.Since(start).Round(time.Millisecond))
			if err != nil {
				f.failed++
			}
		}
	}()
	return f
}

// fetch fetches the page of a host once, through the node's proxy.
func (n *netns) fetch(host string) error {
	c, err := n.viaSOCKS(defaultProxy, web(host))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(dialTimeout))
	io.WriteString(c, plainRequest)
	page, err := io.ReadAll(c)
	if err == nil && !strings.Contains(string(page), " 200 OK") {
		err = fmt.Errorf("got %q", page)
	}
	return err
}

// stop ends the loop and reports failed fetches.
func (f *fetchLoop) stop(t *testing.T, what string) {
	t.Helper()
	close(f.stopc)
	<-f.done
	t.Logf("%s: a well-behaved client made %d fetches meanwhile, the slowest in %v", what, f.n, f.slowest)
	if f.failed > 0 || f.n == 0 {
		t.Errorf("%s: %d of %d fetches of a well-behaved client failed", what, f.failed, f.n)
	}
}

// Ten thousand clients that send nothing, or half a request, disturb neither a well-behaved client
// nor a transfer. The proxy closes most of their connections and counts that, and its memory stays
// bounded. After they have gone, none of their connections is left.
func TestTenThousandHalfOpenClients(t *testing.T) {
	const size = 10000
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	good := s.client.startFetchLoop(innerAddr4)
	before := g.residentMB()
	start := time.Now()
	halfOpen := s.client.startHalfOpen(defaultProxy, size)
	took := time.Since(start).Round(time.Millisecond)
	b.flows("with half-open connections at the proxy", dialTimeout)
	opened, evicted := metric(t, s.client, "ginnel_proxy_connections_open"),
		metric(t, s.client, `ginnel_proxy_refused_total{reason="too_many_half_open"}`)
	t.Logf("%d half-open connections in %v (%s): %v open, %v evicted, %d MB before and %d MB now", size, took,
		strings.SplitN(halfOpen.out.String(), "\n", 2)[0],
		opened, evicted, before, g.residentMB())
	if opened > 1100 || evicted < size-1100 {
		t.Errorf("%v connections are open and %v were evicted, want at most 1100 and at least %d", opened, evicted, size-1100)
	}
	if mb := g.residentMB(); mb > before+150 {
		t.Errorf("memory went from %d to %d MB", before, mb)
	}
	for range 100 {
		b.flows("with half-open connections at the proxy", dialTimeout)
	}
	good.stop(t, "half-open connections")
	halfOpen.kill()
	eventually(t, "no half-open connection is left", 15*time.Second,
		func() bool { return metric(t, s.client, "ginnel_proxy_connections_open") <= 2 })
	b.finish()
	g.end()
}

// With a limit of 64 descriptors the node serves as many connections as it can. The others do not
// disturb these. Once descriptors are free again, the node works as before.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := ginnelCommand(newDir(t, "home"), "up", "--wireguard", s.file(wgFile{}))
	c.before = []string{"prlimit", "--nofile=64:64"}
	g := launchGinnel(s.client, s.key, c)
	g.await(&g.log, `"msg":"node up"`, dialTimeout)
	b := s.startInnerBulk()
	var conns []net.Conn
	for range 100 {
		c, err := s.client.dial("tcp", defaultProxy)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", web(innerAddr4))
		conns = append(conns, c)
	}
	for range 10 {
		b.flows("with 100 connections and 64 descriptors", dialTimeout)
	}
	served := countAnswered(conns, time.Second)
	t.Logf("%d of 100 simultaneous connections are served with 64 descriptors", served)
	if served < 30 || served > 60 {
		t.Errorf("%d connections were served, want most of what 64 descriptors hold", served)
	}
	for _, c := range conns {
		c.Close()
	}
	if !strings.Contains(g.log.String(), "too many open files") {
		t.Errorf("the log does not mention the lack of descriptors: %s", g.log.String())
	}
	eventually(t, "a page is fetched again", dialTimeout, func() bool { return s.client.fetch(innerAddr4) == nil })
	if r := g.command("status"); r.status != 0 {
		t.Errorf("status afterwards: %+v", r)
	}
	b.finish()
	g.end()
}

// countAnswered counts the connections on which data arrive within limit.
func countAnswered(conns []net.Conn, limit time.Duration) (n int) {
	deadline := time.Now().Add(limit)
	for _, c := range conns {
		c.SetReadDeadline(deadline)
		if _, err := c.Read(make([]byte, 100)); err == nil {
			n++
		}
	}
	return n
}
