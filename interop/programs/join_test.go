package programs

import (
	"flag"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// joinRounds is 1 by default, to check that joining works; 'make interop-join' measures with more.
var joinRounds = flag.Int("join-rounds", 1, "how often TestJoinTime has each program join each server")

// askInterval is how often a joining node is asked for the page of a peer, without waiting for
// earlier requests.
const askInterval = 20 * time.Millisecond

// TestJoinTime measures the time from the start of a node that has only a key to the first byte of
// a peer through its proxy. It measures our node and tailscaled in turn, on our server with our
// relay and on headscale with derper. The peer is tailscaled. The test fails only if no byte
// arrives.
func TestJoinTime(t *testing.T) {
	for _, c := range []struct {
		name   string
		create func(t *testing.T) *mesh
	}{
		{"our server", func(t *testing.T) *mesh {
			relay := startGinnelRelay(t)
			return newMesh(t, startOurServer(t, relay), relay)
		}},
		{"headscale", func(t *testing.T) *mesh {
			relay := startDerper(t)
			return newMesh(t, startHeadscale(t, relay), relay)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.create(t)
			peer := newTailscaled(t, newHost(t, "peer"))
			m.join(peer)
			ours, theirs := newHost(t, "ours"), newHost(t, "theirs")
			var ginnel, stock []time.Duration
			for range *joinRounds {
				ginnel = append(ginnel, joinTime(t, newGinnel(t, ours), (*process).stop, m, peer))
				stock = append(stock, joinTime(t, newTailscaled(t, theirs), (*process).kill, m, peer))
			}
			g, s := median(ginnel), median(stock)
			t.Logf("joining %s, median of %d: ginnel %v, tailscaled %v, which is %.2f times that (ginnel %v, tailscaled %v)",
				c.name, *joinRounds, g, s, float64(s)/float64(g), ginnel, stock)
		})
	}
}

// joiner is a node that can be started without waiting for anything.
type joiner interface {
	node
	// launch starts the node and makes it join.
	launch(server, key string)
}

func (g *ginnel) launch(server, key string) {
	g.t.Helper()
	g.process = start(g.t, g.host.name+" (ginnel)", g.upCommand(server, key))
}

// launch runs 'tailscale up' as soon as the daemon's socket exists.
func (d *tailscaled) launch(server, key string) {
	d.t.Helper()
	d.process = start(d.t, d.host.name+" (tailscaled)", d.daemon())
	for {
		if _, err := os.Stat(d.socket()); err == nil {
			break
		}
		d.process.mustRun()
		time.Sleep(time.Millisecond)
	}
	start(d.t, "tailscale up", d.upCommand(server, key)).endExpected = true
}

// joinTime lets a new node join, waits for the first byte of the peer, and ends the node.
func joinTime(t *testing.T, n joiner, end func(*process), m *mesh, peer node) time.Duration {
	t.Helper()
	page := "http://" + netip.AddrPortFrom(peer.address(), servicePort).String()
	answered := make(chan time.Duration, 1)
	begun := time.Now()
	n.launch(m.server.url(), m.key)
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		go func() {
			if got, err := get("socks5h", fetchLimit, n, page); err == nil && got == peer.machine().name {
				select {
				case answered <- time.Since(begun):
				default: // an earlier request was answered
				}
			}
		}()
		select {
		case took := <-answered:
			end(n.program())
			return took.Round(time.Millisecond)
		case <-tick.C:
		}
		if time.Since(begun) > waitLimit {
			t.Fatalf("%s joins: no answer from %s within %v", n.machine().name, page, waitLimit)
		}
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}
