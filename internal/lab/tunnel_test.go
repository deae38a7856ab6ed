//go:build lab

package lab

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/node"
)

// A preshared key has to be equal on both sides. It is never logged.
func TestPresharedKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	right, wrong := key.NewNodePrivate().Raw(), key.NewNodePrivate().Raw()
	c := s.peer.clients[s.key.Public()]
	c.presharedKey = right
	s.peer.clients[s.key.Public()] = c
	s.peer.restart()
	for _, psk := range [][key.Size]byte{right, wrong} {
		g := s.up(wgFile{peer: []string{"PresharedKey = " + base64Of(psk)}}, "--log-level", "debug", "--dial-timeout", "3s")
		g.secrets = append(g.secrets, psk)
		_, err := s.client.viaConnect(defaultProxy, web(innerAddr4))
		if psk == right && err != nil {
			t.Errorf("with the right preshared key: %v", err)
		}
		if psk == wrong {
			assertRefused(t, "wrong preshared key", err, "504", "does not answer at "+endpoint4, "no WireGuard handshake yet",
				"its key")
		}
		g.end()
	}
}

// With several peers, a packet goes to the peer whose AllowedIPs have the longest matching prefix.
func TestSeveralPeers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second := newNetns(t, "second")
	link(s.router, "second", second, "wan")
	s.router.addr("second", "192.0.2.1/24")
	second.addr("wan", "192.0.2.2/24")
	second.route("192.0.2.1", "default")
	other := newStockPeer(second, 41820, "10.99.0.1/24")
	other.clients[s.key.Public()] = stockClient{allowed: []string{nodeAddr4 + "/32"}}
	other.start()
	second.ip("route", "add", nodeAddr4+"/32", "dev", other.dev)
	second.addr("lo", "10.88.7.1/32")
	second.startServices("second")
	g := s.up(wgFile{allowed: "10.77.0.0/24, 10.88.0.0/16",
		more: fmt.Sprintf("[Peer]\nPublicKey = %s\nEndpoint = 192.0.2.2:41820\nAllowedIPs = 10.99.0.0/24, 10.88.7.0/24",
			base64Of([key.Size]byte(other.key.Public())))})
	for host, want := range map[string]string{peerAddr4: "gate", innerAddr4: "inner", "10.99.0.1": "second",
		"10.88.7.1": "second"} {
		r := s.client.tool(curl("--socks5", defaultProxy, "http://"+web(host))...)
		if !strings.HasPrefix(r.stdout, want+" for") {
			t.Errorf("%s: got %q %q, want the page of %s", host, r.stdout, r.stderr, want)
		}
	}
	for _, p := range g.status().Peers {
		if p.Path != node.PathDirect || p.RxBytes == 0 || time.Since(p.LastHandshake) > time.Minute {
			t.Errorf("status of a peer that answers: %+v", p)
		}
	}
}

// The MTU in the file is that of the tunnel: connections announce an MSS that fits, and bulk data
// pass.
func TestMTU(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.up(wgFile{iface: []string{"MTU = 1300"}})
	dump := s.gate.start("tcpdump", command{as: asRoot,
		args: []string{"tcpdump", "-lnni", s.peer.dev, "--immediate-mode",
			"(ip and tcp[tcpflags] == tcp-syn) or (ip6 and ip6[6] == 6 and ip6[53] == 2)"}})
	dump.await(&dump.log, "listening on", dialTimeout)
	for host, mss := range map[string]string{innerAddr4: "1260", innerAddr6: "1240"} {
		c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(host, bulkPort))
		if err != nil {
			t.Fatal(err)
		}
		dump.await(&dump.out, host, dialTimeout)
		line := regexp.MustCompile(regexp.QuoteMeta(host) + `.*`).FindString(dump.out.String())
		if !strings.Contains(line, "mss "+mss+",") {
			t.Errorf("connection to %s: %q, want mss %s", host, line, mss)
		}
		b := startBulk(t, c, 16<<20)
		for range 20 {
			b.flows("with a small MTU", dialTimeout)
		}
		b.finish()
	}
}

// Behind a NAT that drops mappings after two seconds, the peer can reach the node at any time with
// PersistentKeepalive, and cannot without it.
func TestKeepaliveHoldsTheNAT(t *testing.T) {
	t.Parallel()
	for _, keepalive := range []int{0, 1} {
		t.Run(fmt.Sprintf("keepalive %d s", keepalive), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.router.nat("gate", "masquerade")
			s.router.sysctl("net/netfilter/nf_conntrack_udp_timeout", "2")
			s.router.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", "2")
			s.client.startServices("client")
			s.up(wgFile{peer: []string{fmt.Sprintf("PersistentKeepalive = %d", keepalive)}}, "--serve", "80=80")
			open, err := s.client.viaSOCKS(defaultProxy, web(peerAddr4))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			time.Sleep(5 * time.Second) // longer than a mapping lives, shorter than until WireGuard starts a new handshake
			ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
			defer cancel()
			c, err := s.gate.DialContext(ctx, "tcp", web(nodeAddr4))
			if err == nil {
				c.Close()
			}
			if keepalive > 0 && err != nil {
				t.Errorf("the peer cannot reach the node: %v", err)
			}
			if keepalive == 0 && err == nil {
				t.Error("the NAT keeps mappings without traffic, so the test proves nothing")
			}
		})
	}
}

// A failed dial to a host behind the peer says why it failed: closed port, no such host, or a
// firewall.
func TestRefusalsOfThePeer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.up(wgFile{}, "--dial-timeout", "8s")
	_, err := s.client.viaConnect(defaultProxy, innerAddr4+":81")
	assertRefused(t, "closed port", err, "502", "connection refused: nothing listens on port 81 there")
	start := time.Now()
	_, err = s.client.viaConnect(defaultProxy, "10.88.0.99:80")
	assertRefused(t, "host that is not there", err, "502", "the peer reports that the host cannot be reached")
	t.Logf("no such host: the dial failed after %v", time.Since(start).Round(time.Millisecond))
	s.gate.nft(`table inet fire { chain wall { type filter hook forward priority filter; tcp dport 82 drop; }; }`)
	start = time.Now()
	_, err = s.client.viaConnect(defaultProxy, innerAddr4+":82")
	assertRefused(t, "port behind a firewall", err, "504", "a firewall there may drop the packets")
	if took := time.Since(start); took < 7*time.Second || took > 11*time.Second {
		t.Errorf("a dial with --dial-timeout 8s ended after %v", took)
	}
}
