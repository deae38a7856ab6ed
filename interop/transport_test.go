package interop

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// pair is our node and theirs in one network.
type pair struct {
	relays relay.Map
	our    *ourNode
	their  *theirNode
}

// newPair starts both nodes and waits until they are ready. They do not have each other as peers
// yet.
func newPair(t *testing.T, relays relay.Map, cfg node.Config) *pair {
	t.Helper()
	p := &pair{relays: relays}
	p.startOurs(t, cfg)
	p.startTheirs(t, key.NewNodePrivate())
	return p
}

// withSTUN adds STUN to a relay and returns a map with it.
func withSTUN(t *testing.T, h *relayHost) relay.Map {
	t.Helper()
	serveDelayedSTUN(t, h)
	return h.derpMap(fastStart)
}

// startOurs starts our node.
func (p *pair) startOurs(t *testing.T, cfg node.Config) {
	t.Helper()
	p.our = newOurNode(t, "our node", cfg, meshAddrs[0], p.relays)
	p.our.waitReady()
}

// startTheirs starts their node.
func (p *pair) startTheirs(t *testing.T, k key.NodePrivate) {
	t.Helper()
	p.their = newTheirNode(t, "their node", k, meshAddrs[1])
	p.their.setPeers(p.relays)
	p.their.waitReady()
}

func (p *pair) exchangePeers() { exchangePeers(p.relays, p.our, p.their) }

// relayed returns how many packets our node has sent through the relay.
func (p *pair) relayed() (n uint64) {
	for _, r := range p.our.Status().Relays {
		n += r.TxPackets
	}
	return n
}

// How long packets may be lost when a direct path breaks. Their node trusts a path for 6.5 s after
// the last answer. Ours pings every 3 s and gives the path up after one missing answer.
const (
	theirFallback = 10 * time.Second
	ourFallback   = 6 * time.Second
)

// TestNodes proves that our node and theirs communicate over relays of both makes, whichever side
// dials: through the relay at once, directly as soon as UDP passes, through the relay within
// seconds when UDP is cut, and directly again afterwards. One TCP connection survives all of it
// unchanged.
func TestNodes(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		serveDelayedSTUN(t, h)
		for _, name := range []string{"our node dials", "their node dials"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newPair(t, h.derpMap(fastStart), node.Config{})
				from, to := member(p.our), member(p.their)
				if name == "their node dials" {
					from, to = to, from
				}
				testLifeOfPath(t, p, from, to)
			})
		}
	})
}

func testLifeOfPath(t *testing.T, p *pair, from, to member) {
	t.Helper()
	cutUDP(t, from, to)
	p.exchangePeers()
	serveEcho(t, to)
	k := startEchoStream(t, from, to)
	k.awaitBytes(waitLimit, 1<<20)
	if a, b := from.path(to.public()), to.path(from.public()); a.IsValid() || b.IsValid() {
		t.Fatalf("direct paths %v and %v without UDP", a, b)
	}
	wantPings(t, p, node.PathRelay)

	restoreUDP(t, from, to)
	wantDirect(t, from, to)
	before := p.relayed()
	k.awaitBytes(waitLimit, 1<<20) // about 900 packets each way
	if n := p.relayed() - before; n > 50 {
		t.Errorf("our node sent %d packets through the relay beside a direct path", n)
	}
	wantPings(t, p, node.PathDirect)

	out, in := startProbes(t, p.our, p.their), startProbes(t, p.their, p.our)
	out.reset()
	in.reset()
	cutUDP(t, from, to)
	wantRelayed(t, from, to)
	k.awaitBytes(upgradeLimit, 1<<18)
	if our, their := out.longest(), in.longest(); our > ourFallback || their > theirFallback {
		t.Errorf("UDP was cut and nothing arrived from our node for %v, from theirs for %v, want at most %v and %v",
			our, their, ourFallback, theirFallback)
	} else {
		t.Logf("UDP was cut and nothing arrived from our node for %v, from theirs for %v", our, their)
	}
	restoreUDP(t, from, to)
	wantDirect(t, from, to)
	k.awaitBytes(waitLimit, 1<<20)
	k.finish()
}

// wantPings checks that a ping in each direction is answered over that path.
func wantPings(t *testing.T, p *pair, path node.PathKind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	got, err := p.our.Ping(ctx, p.their.addr.String())
	if err != nil {
		t.Fatalf("our node pings: %v", err)
	}
	if got.Path != path || path == node.PathRelay && got.Relay != "test" {
		t.Errorf("our node's ping was answered by %+v, want %s", got, path)
	}
	for _, size := range []int{0, 1000} { // the second one is padded
		answer := make(chan *ipnstate.PingResult, 8)
		p.their.eng.Ping(p.our.addr, tailcfg.PingDisco, size, func(r *ipnstate.PingResult) { answer <- r })
		select {
		case r := <-answer:
			if relayed := r.DERPRegionID == 1; r.Err != "" || relayed != (path == node.PathRelay) {
				t.Errorf("their node's ping of size %d was answered by %+v, want %s", size, r, path)
			}
		case <-ctx.Done():
			t.Errorf("their node's ping of size %d was not answered", size)
		}
	}
}

// TestTheirRestart proves that their node is reachable after a restart: through the relay even
// before our map has its new disco key, and directly once it has.
func TestTheirRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.our)
	k := startEchoStream(t, p.their, p.our)
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()

	old := p.their.disco()
	p.their.close()
	p.startTheirs(t, p.their.key)
	if p.their.disco() == old {
		t.Fatal("the disco key is the same as before")
	}
	p.their.setPeers(p.relays, entry(p.our)) // their node gets its map first
	k = startEchoStream(t, p.their, p.our)
	k.awaitBytes(waitLimit, 1<<18)
	if ap := p.their.path(p.our.public()); ap.IsValid() {
		t.Errorf("their node uses %v, though ours cannot know its disco key", ap)
	}
	p.exchangePeers()
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()
}

// TestTheirSilentRestart proves that our node takes a new disco key in the map as a sign of a
// restart, and drops the session that the other side has lost. A connection starts at once even if
// the other side does not send first.
func TestTheirSilentRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()

	p.their.close()
	p.startTheirs(t, p.their.key)
	p.exchangePeers()
	serveEcho(t, p.their)
	start := time.Now()
	k = startEchoStream(t, p.our, p.their)
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("a connection took %v: the old session was used", took)
	}
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()
}

// TestOurRestart is TestTheirRestart with our node. When a map brings our new disco key, their node
// drops even a new session. Ours may notice that only after WireGuard's 15 s, and the TCP
// retransmission then takes as long again.
func TestOurRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()

	old := p.our.disco()
	p.our.close()
	p.startOurs(t, node.Config{Key: p.our.cfg.Key})
	if p.our.disco() == old {
		t.Fatal("the disco key is the same as before")
	}
	p.our.setPeers(p.relays, entry(p.their))
	k = startEchoStream(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	if ap := p.our.path(p.their.public()); ap.IsValid() {
		t.Errorf("our node uses %v, though theirs cannot know its disco key", ap)
	}
	p.exchangePeers()
	wantDirect(t, p.our, p.their)
	k.awaitBytes(45*time.Second, 1<<18)
	k.finish()
}

// TestTheirRoaming proves that our node follows when theirs moves to another port: a connection
// continues and becomes direct again without a new map.
func TestTheirRoaming(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)

	old := p.their.udpPort()
	p.their.sys.MagicSock.Get().SetPreferredPort(freeUDPPort(t))
	if p.their.udpPort() == old {
		t.Fatalf("the port is %d, as before", old)
	}
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()
}

// TestOurRoaming proves that their node follows when a NAT gives ours another outside port, as
// after a change of network: our node keeps sending directly, theirs finds the new path, and a
// connection continues.
func TestOurRoaming(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{UDPAddr: loopbacks[0]})
	n := newNAT(t)
	stunInside := n.insideAddr(t, netip.AddrPortFrom(loopbacks[0], uint16(p.relays.Regions[1].Nodes[0].STUNPort)))
	peerInside := n.insideAddr(t, netip.AddrPortFrom(loopbacks[0], p.their.udpPort()))
	filterUDP(t, p.our.udpPort(), acceptFrom(stunInside.Port(), peerInside.Port()))

	inside := relay.Map{Regions: map[int]*relay.Region{1: new(*p.relays.Regions[1])}}
	inside.Regions[1].Nodes = []*relay.Node{new(*p.relays.Regions[1].Nodes[0])}
	inside.Regions[1].Nodes[0].STUNPort = int(stunInside.Port())
	their := entry(p.their)
	their.Endpoints = []netip.AddrPort{peerInside}
	p.our.setPeers(inside, their)
	p.our.waitReady() // with another STUN port it is another relay, and the node connects again
	p.their.setPeers(p.relays, entry(p.our))
	serveEcho(t, p.our)

	k := startEchoStream(t, p.their, p.our)
	wantThroughNAT(t, p, n, peerInside)
	k.awaitBytes(waitLimit, 1<<18)
	n.rebind(t)
	wantThroughNAT(t, p, n, peerInside)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()
}

// wantThroughNAT waits until both nodes send directly through the NAT.
func wantThroughNAT(t *testing.T, p *pair, n *nat, socket netip.AddrPort) {
	t.Helper()
	eventuallyWithin(t, upgradeLimit, "both send directly through the NAT", func() bool {
		return p.our.path(p.their.public()) == socket && p.their.path(p.our.public()) == n.outside()
	})
}
