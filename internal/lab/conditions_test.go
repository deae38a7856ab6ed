//go:build lab

package lab

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// narrow gives a link in the middle of the path to beta a smaller MTU than the links at its ends.
func (m *mesh) narrow() {
	m.t.Helper()
	m.internet.ip("link", "set", "beta", "mtu", "1400")
	m.beta.router.ip("link", "set", "wan", "mtu", "1400")
}

// dropICMPErrors makes the routers at the narrow link drop too large packets without ICMP errors.
func (m *mesh) dropICMPErrors() {
	m.t.Helper()
	for _, n := range []*netns{m.internet, m.beta.router} {
		n.nft("table inet silent { chain out { type filter hook output priority filter; " +
			"icmp type destination-unreachable drop; }; }")
	}
}

// If the MTU in the middle of a path is smaller than at its ends, everything still arrives: bulk
// data and single packets of full size, with and without ICMP errors. The nodes' datagrams may be
// fragmented, as those of the kernel's WireGuard may.
func TestNarrowPath(t *testing.T) {
	t.Parallel()
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent %v", silent), func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, open, open)
			m.narrow()
			if silent {
				m.dropICMPErrors()
			}
			tp := startTransferPair(m, meshRate)
			tp.settle(time.Second)
			tp.finish()
			c, err := m.alpha.host.viaSOCKS(defaultProxy, net.JoinHostPort("beta", echoPort))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for size := 1200; size <= 1380; size += 20 {
				c.SetDeadline(time.Now().Add(8 * time.Second))
				message := bytes.Repeat([]byte{'x'}, size)
				c.Write(message)
				if n, err := io.ReadFull(c, message); err != nil {
					t.Fatalf("a single segment of %d bytes: %d bytes came back: %v", size, n, err)
				}
			}
		})
	}
}

// Transfers continue after the host was suspended. Here only the node's process is stopped.
func TestSleep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	b.settled()
	g.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(12 * time.Second)
	g.cmd.Process.Signal(syscall.SIGCONT)
	took := b.flows("after the host has slept", 20*time.Second)
	t.Logf("after 12 s of sleep: flows again in %v", took.Round(time.Millisecond))
	b.finish()
	g.end()
}

// The same holds in a mesh whose peer was suspended, on the direct path and on the relay.
func TestSleepInAMesh(t *testing.T) {
	t.Parallel()
	for _, a := range []access{open, hard} {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, a, a)
			b := m.alpha.bulk(meshRate)
			b.settled()
			m.beta.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(15 * time.Second)
			m.beta.cmd.Process.Signal(syscall.SIGCONT)
			took := b.flows("after the peer has slept", 30*time.Second)
			t.Logf("after the peer's 15 s of sleep: flows again in %v", took.Round(time.Millisecond))
			b.finish()
		})
	}
}

// A middlebox drops the packets of the TCP connection to the relay without a reset. A new
// connection would pass. The node notices and opens one.
func TestRelayConnectionForgotten(t *testing.T) {
	t.Parallel()
	m := newMesh(t, hard, hard)
	b := m.alpha.bulk(meshRate)
	b.settled()
	port := m.alpha.host.localPort(m.relay.node.DERPPort)
	m.alpha.router.nft(fmt.Sprintf("table inet forget { chain forget { type filter hook forward priority filter; "+
		"tcp sport %[1]d drop; tcp dport %[1]d drop; }; }", port))
	took := b.flows("after the relay connection was forgotten", 60*time.Second)
	t.Logf("relay connection forgotten: flows again after %v", took.Round(time.Millisecond))
	b.finish()
}

// localPort returns the local port of the namespace's established TCP connection to a remote port.
func (n *netns) localPort(remote int) int {
	n.t.Helper()
	var text []byte
	err := n.do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/tcp")
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == "01" && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", remote)) {
			port, err := strconv.ParseUint(f[1][strings.Index(f[1], ":")+1:], 16, 16)
			if err == nil {
				return int(port)
			}
		}
	}
	n.t.Fatalf("no connection to port %d in\n%s", remote, text)
	return 0
}

// A node that starts without a network, or before names can be resolved, works as soon as both are
// there.
func TestStartWithoutNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, endpoint string }{{"address", endpoint4}, {"name", "gate.example:51820"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.client.writeEtc("hosts", "127.0.0.1 localhost\n")
			s.client.writeEtc("resolv.conf", "nameserver 127.0.0.1\n")
			s.client.ip("link", "set", "wan", "down")
			g := s.up(wgFile{endpoint: c.endpoint})
			waiting := make(chan error, 1)
			go func() { waiting <- s.client.fetch(innerAddr4) }()
			time.Sleep(4 * time.Second)
			s.client.ip("link", "set", "wan", "up")
			s.client.route("198.51.100.1", "default")
			s.client.writeEtc("hosts", "127.0.0.1 localhost\n"+gateAddr4+" gate.example\n")
			start := time.Now()
			if err := <-waiting; err != nil {
				t.Errorf("a connection opened before there was a network: %v", err)
			}
			t.Logf("network up after 4 s: the waiting fetch ended %v later", time.Since(start).Round(time.Millisecond))
			if err := s.client.fetch(innerAddr4); err != nil {
				t.Errorf("fetching a page afterwards: %v", err)
			}
			g.end()
		})
	}
}

// If an endpoint's name has two addresses and the first does not answer, the node tries the second
// before a dial times out.
func TestEndpointNameWithADeadAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.client.writeEtc("hosts", "127.0.0.1 localhost\n203.0.113.77 gate.example\n"+gateAddr4+" gate.example\n")
	g := s.up(wgFile{endpoint: "gate.example:51820"})
	start := time.Now()
	if err := s.client.fetch(innerAddr4); err != nil {
		t.Errorf("with a dead address before the one that answers: %v", err)
	}
	t.Logf("the second of two addresses answers after %v", time.Since(start).Round(time.Millisecond))
	g.end()
}

// On a host without IPv6 the tunnel runs over IPv4, and still carries IPv6.
func TestHostWithoutIPv6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, dev := range []string{"all", "default", "lo", "wan"} {
		s.client.sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	}
	g := s.up(wgFile{})
	for _, host := range []string{innerAddr4, innerAddr6} {
		if err := s.client.fetch(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	g.end()
}

// If a client does not read, the node stops reading from its server. The data buffered for it are
// bounded, and other clients are not slowed down.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	before := g.residentMB()
	const readers = 30
	for i := range readers {
		c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, bulkPort))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte{0, 0, 0, 0, 0, 0, 0, byte(i), 0, 0, 0, 1, 0, 0, 0, 0}) // 4 GiB a second
	}
	b := s.startInnerBulk()
	for range 100 {
		b.flows("beside clients that do not read", dialTimeout)
	}
	after := g.residentMB()
	t.Logf("%d clients that do not read: %d MB before, %d MB with them, longest silence of another %v", readers, before,
		after, b.longestSilence())
	if after > before+readers*8 {
		t.Errorf("memory went from %d to %d MB", before, after)
	}
	b.finish()
	g.end()
}
