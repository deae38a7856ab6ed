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

// pair is a node of each make in one network.
type pair struct {
	relays relay.Map
	our    *ourNode
	their  *realNode
}

// newPair starts them and waits until both are ready. They do not know of each other yet.
func newPair(t *testing.T, relays relay.Map, cfg node.Config) *pair {
	t.Helper()
	p := &pair{relays: relays}
	p.startOurs(t, cfg)
	p.startTheirs(t, key.NewNodePrivate())
	return p
}

// withSTUN adds STUN to a relay and returns a map of it.
func withSTUN(t *testing.T, h *relayHost) relay.Map {
	t.Helper()
	serveDistantSTUN(t, h)
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
	p.their = newRealNode(t, "their node", k, meshAddrs[1])
	p.their.introduce(p.relays)
	p.their.waitReady()
}

func (p *pair) introduce() { introduceAll(p.relays, p.our, p.their) }

// relayed returns how many packets our node sent through the relay.
func (p *pair) relayed() (n uint64) {
	for _, r := range p.our.Status().Relays {
		n += r.TxPackets
	}
	return n
}

// How long a node may send into the void when a direct path dies: theirs believes in it for 6.5 s
// after the last answer; ours gets an answer every 3 s and misses it after one.
const (
	theirFallback = 10 * time.Second
	ourFallback   = 6 * time.Second
)

// TestNodes proves that our node and theirs talk, whoever dials, over relays of both makes: through
// the relay at once, directly in both directions as soon as UDP passes, through the relay again
// within seconds when it no longer does, and directly when it does again, all on one TCP connection
// whose bytes arrive unchanged.
func TestNodes(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		serveDistantSTUN(t, h)
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
	p.introduce()
	serveEcho(t, to)
	k := startTalk(t, from, to)
	k.more(patience, 1<<20)
	if a, b := from.path(to.public()), to.path(from.public()); a.IsValid() || b.IsValid() {
		t.Fatalf("direct paths %v and %v without UDP", a, b)
	}
	wantPings(t, p, node.PathRelay)

	restoreUDP(t, from, to)
	wantDirect(t, from, to)
	before := p.relayed()
	k.more(patience, 1<<20) // some 900 packets each way
	if n := p.relayed() - before; n > 50 {
		t.Errorf("our node sent %d packets through the relay beside a direct path", n)
	}
	wantPings(t, p, node.PathDirect)

	out, in := startProbes(t, p.our, p.their), startProbes(t, p.their, p.our)
	out.reset()
	in.reset()
	cutUDP(t, from, to)
	wantRelayed(t, from, to)
	k.more(upgradeLimit, 1<<18)
	if our, their := out.longest(), in.longest(); our > ourFallback || their > theirFallback {
		t.Errorf("UDP was cut and nothing arrived from our node for %v, from theirs for %v, want at most %v and %v",
			our, their, ourFallback, theirFallback)
	} else {
		t.Logf("UDP was cut and nothing arrived from our node for %v, from theirs for %v", our, their)
	}
	restoreUDP(t, from, to)
	wantDirect(t, from, to)
	k.more(patience, 1<<20)
	k.finish()
}

// wantPings demands that a ping in either direction is answered by that path.
func wantPings(t *testing.T, p *pair, path node.PathKind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
// before our map says its new disco key, and directly once it does.
func TestTheirRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.introduce()
	serveEcho(t, p.our)
	k := startTalk(t, p.their, p.our)
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()

	old := p.their.disco()
	p.their.close()
	p.startTheirs(t, p.their.key)
	if p.their.disco() == old {
		t.Fatal("the disco key is the same as before")
	}
	p.their.introduce(p.relays, entry(p.our)) // its own map comes first
	k = startTalk(t, p.their, p.our)
	k.more(patience, 1<<18)
	if ap := p.their.path(p.our.public()); ap.IsValid() {
		t.Errorf("their node uses %v, though ours cannot know its disco key", ap)
	}
	p.introduce()
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()
}

// TestTheirSilentRestart proves that our node takes a new disco key in the map for what it is, the
// sign of a restart, and does not go on with a session that the other side has lost: a connection
// begins at once, even if theirs does not speak first.
func TestTheirSilentRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.introduce()
	serveEcho(t, p.their)
	k := startTalk(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()

	p.their.close()
	p.startTheirs(t, p.their.key)
	p.introduce()
	serveEcho(t, p.their)
	start := time.Now()
	k = startTalk(t, p.our, p.their)
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("a connection took %v: the old session was used", took)
	}
	k.more(patience, 1<<18)
	k.finish()
}

// TestOurRestart is TestTheirRestart with our node. When its map brings our new disco key, their
// node drops even a session that is new; ours may notice only after 15 s, by WireGuard's rules, and
// TCP then waits as long again.
func TestOurRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relayserver.Config{})), node.Config{})
	p.introduce()
	serveEcho(t, p.their)
	k := startTalk(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()

	old := p.our.disco()
	p.our.close()
	p.startOurs(t, node.Config{Key: p.our.cfg.Key})
	if p.our.disco() == old {
		t.Fatal("the disco key is the same as before")
	}
	p.our.introduce(p.relays, entry(p.their))
	k = startTalk(t, p.our, p.their)
	k.more(patience, 1<<18)
	if ap := p.our.path(p.their.public()); ap.IsValid() {
		t.Errorf("our node uses %v, though theirs cannot know its disco key", ap)
	}
	p.introduce()
	wantDirect(t, p.our, p.their)
	k.more(45*time.Second, 1<<18)
	k.finish()
}

// TestTheirRoaming proves that our node follows when theirs moves to another port: a connection
// lives on and is direct again without any news from a map.
func TestTheirRoaming(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.introduce()
	serveEcho(t, p.their)
	k := startTalk(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)

	old := p.their.udpPort()
	p.their.sys.MagicSock.Get().SetPreferredPort(freeUDPPort(t))
	if p.their.udpPort() == old {
		t.Fatalf("the port is %d, as before", old)
	}
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()
}

// TestOurRoaming proves that their node follows when the NAT before ours gives it another outside
// port, as after a change of network: our node sends on directly, theirs finds the new way, and a
// connection lives on.
func TestOurRoaming(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{UDPAddr: loopbacks[0]})
	n := newNAT(t)
	stunDoor := n.door(t, netip.AddrPortFrom(loopbacks[0], uint16(p.relays.Regions[1].Nodes[0].STUNPort)))
	peerDoor := n.door(t, netip.AddrPortFrom(loopbacks[0], p.their.udpPort()))
	filterUDP(t, p.our.udpPort(), acceptFrom(stunDoor.Port(), peerDoor.Port()))

	inside := relay.Map{Regions: map[int]*relay.Region{1: new(*p.relays.Regions[1])}}
	inside.Regions[1].Nodes = []*relay.Node{new(*p.relays.Regions[1].Nodes[0])}
	inside.Regions[1].Nodes[0].STUNPort = int(stunDoor.Port())
	their := entry(p.their)
	their.Endpoints = []netip.AddrPort{peerDoor}
	p.our.introduce(inside, their)
	p.our.waitReady() // another STUN port makes it another relay, which is connected to anew
	p.their.introduce(p.relays, entry(p.our))
	serveEcho(t, p.our)

	k := startTalk(t, p.their, p.our)
	wantThrough(t, p, n, peerDoor)
	k.more(patience, 1<<18)
	n.rebind(t)
	wantThrough(t, p, n, peerDoor)
	k.more(patience, 1<<18)
	k.finish()
}

// wantThrough waits until both nodes send directly through the NAT.
func wantThrough(t *testing.T, p *pair, n *nat, door netip.AddrPort) {
	t.Helper()
	eventuallyWithin(t, upgradeLimit, "both send directly through the NAT", func() bool {
		return p.our.path(p.their.public()) == door && p.their.path(p.our.public()) == n.outside()
	})
}
