//go:build lab

package lab

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// In these tests the network changes below running transfers. No connection may break, and no byte
// may be lost or duplicated.

const (
	recoveryRate = 2 << 20 // bytes a second, each way
	newAddr4     = "203.0.113.9"
)

// startInnerBulk starts a transfer with the inner host through the node's proxy.
func (s *site) startInnerBulk() *bulk {
	s.t.Helper()
	c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, bulkPort))
	if err != nil {
		s.t.Fatal(err)
	}
	b := startBulk(s.t, c, recoveryRate)
	b.flows("at first", dialTimeout)
	return b
}

// settled waits for some undisturbed progress and resets the longest silence.
func (b *bulk) settled() {
	b.t.Helper()
	for range 20 {
		b.flows("undisturbed", dialTimeout)
	}
	b.longestSilence()
}

// The endpoint is a name. The peer moves to another address and restarts there without its
// sessions, as a server that is replaced, and the name is changed. The node looks the name up again
// by itself.
func TestPeerMovesAndItsNameFollows(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	hosts := func(addr string) { s.client.writeEtc("hosts", "127.0.0.1 localhost\n"+addr+" gate.example\n") }
	hosts(gateAddr4)
	g := s.up(wgFile{endpoint: "gate.example:51820"})
	b := s.startInnerBulk()
	b.settled()
	s.moveGate()
	s.peer.restart()
	hosts(newAddr4)
	took := b.flows("after the peer has moved and its name was changed", 45*time.Second)
	t.Logf("healed %v after the peer had moved (longest silence %v)", took.Round(time.Millisecond), b.longestSilence())
	if got, want := g.status().Peers[0].Endpoint, newAddr4+":51820"; got != want {
		t.Errorf("status shows the peer at %s, want %s", got, want)
	}
	b.finish()
	g.end()
}

// moveGate gives the stock peer's host another address.
func (s *site) moveGate() {
	s.t.Helper()
	s.gate.ip("addr", "del", gateAddr4+"/24", "dev", "wan")
	s.gate.addr("wan", newAddr4+"/24")
	s.gate.ip("route", "replace", "default", "via", "203.0.113.1")
}

// The peer moves with its sessions and sends first, as a roaming WireGuard peer does. The node
// replies to the new address at once, even if its endpoint is configured as an address or as a name
// that still has the old address.
func TestPeerRoams(t *testing.T) {
	t.Parallel()
	for _, host := range []string{gateAddr4, "gate.example"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.client.writeEtc("hosts", "127.0.0.1 localhost\n"+gateAddr4+" gate.example\n")
			g := s.up(wgFile{endpoint: host + ":51820"})
			b := s.startInnerBulk()
			b.settled()
			s.moveGate()
			took := b.flows("after the peer has roamed", 20*time.Second)
			t.Logf("healed %v after the peer had roamed (longest silence %v)", took.Round(time.Millisecond), b.longestSilence())
			time.Sleep(9 * time.Second) // longer than a silent peer's name waits to be looked up
			b.settled()
			if got, want := g.status().Peers[0].Endpoint, newAddr4+":51820"; got != want {
				t.Errorf("status shows the peer at %s, want %s", got, want)
			}
			b.finish()
			g.end()
		})
	}
}

// The node's host changes its address twice. First the old address is removed before the new one is
// added, as with a new lease. Then the new one is added before the old one is removed, as with a
// second network.
func TestOwnAddressChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	b.settled()
	s.client.ip("addr", "del", clientAddr4+"/24", "dev", "wan")
	time.Sleep(2 * time.Second)
	s.client.addr("wan", "198.51.100.33/24")
	s.client.ip("route", "add", "default", "via", "198.51.100.1")
	took := b.flows("after the host has another address", 30*time.Second)
	t.Logf("without an address for 2 s: healed %v after the new one (longest silence %v)", took.Round(time.Millisecond),
		b.longestSilence())

	s.client.sysctl("net/ipv4/conf/all/promote_secondaries", "1")
	s.client.addr("wan", "198.51.100.44/24")
	s.client.ip("addr", "del", "198.51.100.33/24", "dev", "wan")
	s.client.ip("route", "replace", "default", "via", "198.51.100.1")
	took = b.flows("after the host has changed to a second address", 30*time.Second)
	t.Logf("second address added before the first is removed: healed after %v (longest silence %v)",
		took.Round(time.Millisecond), b.longestSilence())
	b.finish()
	g.end()
}

// UDP is blocked for 10 s, by dropping packets or by rejecting each with an ICMP error.
func TestUDPCut(t *testing.T) {
	t.Parallel()
	for _, verdict := range []string{"drop", "reject"} {
		t.Run(verdict, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			g := s.up(wgFile{})
			b := s.startInnerBulk()
			b.settled()
			s.router.nft(fmt.Sprintf("table inet cut { chain cut { type filter hook forward priority filter; "+
				"meta l4proto udp %s; }; }", verdict))
			time.Sleep(10 * time.Second)
			s.router.nft("delete table inet cut")
			took := b.flows("after UDP gets through again", 30*time.Second)
			t.Logf("UDP cut (%s) for 10 s: healed %v after it was restored", verdict, took.Round(time.Millisecond))
			b.finish()
			g.end()
		})
	}
}

// The node survives that its link is down, and its routes are gone, for some seconds.
func TestLinkDown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	b.settled()
	s.client.ip("link", "set", "wan", "down")
	time.Sleep(4 * time.Second)
	s.client.ip("link", "set", "wan", "up")
	s.client.ip("route", "replace", "default", "via", "198.51.100.1")
	took := b.flows("after the link is up again", 30*time.Second)
	t.Logf("link down for 4 s: healed %v after it was up", took.Round(time.Millisecond))
	b.finish()
	g.end()
}
