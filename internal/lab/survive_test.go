//go:build lab

package lab

import (
	"testing"
	"time"

	"ginnel/internal/netem"
	"ginnel/node"
)

// ordeal is one transfer in each direction between two nodes of a mesh, and what happens to the
// network meanwhile.
type ordeal struct {
	*mesh
	ab, ba *bulk
}

func startOrdeal(m *mesh, rate uint64) *ordeal {
	m.t.Helper()
	o := &ordeal{mesh: m, ab: m.alpha.bulk(rate)}
	o.ba = m.beta.bulk(rate)
	o.awaitPaths(node.PathDirect, 20*time.Second)
	return o
}

// flows waits until both transfers go on, and returns how long the later one took.
func (o *ordeal) flows(what string, limit time.Duration) time.Duration {
	o.t.Helper()
	start := time.Now()
	o.ab.flows(what+", from alpha", limit)
	o.ba.flows(what+", from beta", limit)
	return time.Since(start).Round(time.Millisecond)
}

// silence is the longest that either transfer was silent since this was last asked.
func (o *ordeal) silence() time.Duration { return max(o.ab.longestSilence(), o.ba.longestSilence()) }

// settle lets the transfers run for a while and forgets how long they were silent.
func (o *ordeal) settle(d time.Duration) {
	o.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		o.flows("undisturbed", dialTimeout)
	}
	o.silence()
}

// awaitPaths waits until both nodes reach each other in this way.
func (o *ordeal) awaitPaths(want node.PathKind, limit time.Duration) time.Duration {
	o.t.Helper()
	start := time.Now()
	o.alpha.awaitPath(want, limit)
	o.beta.awaitPath(want, limit)
	return time.Since(start).Round(time.Millisecond)
}

func (o *ordeal) finish() {
	o.t.Helper()
	o.ab.finish()
	o.ba.finish()
}

// cut takes UDP away: the transfers go on over the relay within seconds.
func (o *ordeal) cut() {
	o.t.Helper()
	o.settle(time.Second)
	o.cutUDP()
	took := o.flows("after UDP is cut", 10*time.Second)
	paths := o.awaitPaths(node.PathRelay, 20*time.Second)
	o.t.Logf("UDP cut: goes on over the relay after %v (longest silence %v); status says so after %v", took, o.silence(), took+paths)
}

// restore gives UDP back: the transfers become direct again.
func (o *ordeal) restore() {
	o.t.Helper()
	o.settle(time.Second)
	o.restoreUDP()
	paths := o.awaitPaths(node.PathDirect, 30*time.Second)
	o.flows("after UDP is back", 15*time.Second)
	o.t.Logf("UDP restored: direct again after %v (longest silence %v)", paths, o.silence())
}

// relayOutage kills the relay and starts it again, with both paths as they are.
func (o *ordeal) relayOutage(what string, outage time.Duration, end func(), allowed time.Duration) {
	o.t.Helper()
	o.settle(time.Second)
	end()
	time.Sleep(outage)
	o.relay.start()
	took := o.flows(what, 20*time.Second)
	o.alpha.awaitRelay(15 * time.Second)
	o.beta.awaitRelay(15 * time.Second)
	silence := o.silence()
	o.t.Logf("%s: flows %v after its start (longest silence %v)", what, took, silence)
	if allowed > 0 && silence > allowed {
		o.t.Errorf("%s: silent for %v, want no more than %v", what, silence, allowed)
	}
}

// roam gives a node's host another address.
func (o *ordeal) roam(n *meshNode, from, to int) {
	o.t.Helper()
	o.settle(time.Second)
	n.host.ip("addr", "del", n.insideAddr(from)+"/24", "dev", "wan")
	n.host.addr("wan", n.insideAddr(to)+"/24")
	n.host.ip("route", "replace", "default", "via", n.gateway())
	took := o.flows(n.order.Name+" has roamed", 30*time.Second)
	n.awaitRelay(20 * time.Second)
	paths := o.awaitPaths(node.PathDirect, 30*time.Second)
	o.t.Logf("%s roamed: flows after %v (longest silence %v), direct and on the relay again after %v", n.order.Name, took, o.silence(), took+paths)
}

// One transfer in each direction outlives all of it, one after the other and some of it at once:
// UDP is cut and restored, the relay is killed while it is not needed and while it is, it is
// restarted in good order, and each of the nodes moves to another address. No connection breaks and
// no byte is lost or doubled.
func TestTransfersOutliveTheirPaths(t *testing.T) {
	t.Parallel()
	for _, a := range []access{open, easy} {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			o := startOrdeal(newMesh(t, a, a), meshRate)
			o.cut()
			o.restore()
			o.relayOutage("relay killed for 2 s, direct path", 2*time.Second, func() { o.relay.kill() }, time.Second)
			o.cut()
			o.relayOutage("relay killed for 2 s, relayed", 2*time.Second, func() { o.relay.kill() }, 0)
			o.relayOutage("relay restarted, relayed", 0, func() { o.endRelay() }, 0)
			o.restore()
			o.roam(o.alpha, 2, 3)
			o.roam(o.beta, 2, 4)
			o.finish()
		})
	}
}

// endRelay ends the relay in good order.
func (m *mesh) endRelay() {
	m.t.Helper()
	status, took := m.relay.terminate()
	if status != 0 || took > 6*time.Second {
		m.t.Errorf("relay ended with status %d after %v", status, took.Round(time.Millisecond))
	}
	m.t.Logf("relay told its clients and ended in %v", took.Round(time.Millisecond))
}

// On an access line that takes 20 ms each way and loses one packet in a hundred, the direct path is
// found and kept, fallen back from and returned to like on any other.
func TestLossyLine(t *testing.T) {
	t.Parallel()
	m := newMeshHosts(t, easy, open)
	lossy := netem.Config{Delay: 20 * time.Millisecond, Loss: 0.01}
	wireLink(m.alpha.host, "wan", m.alpha.router, "inside", lossy, lossy)
	link(m.beta.host, "wan", m.beta.router, "inside")
	m.start()
	o := startOrdeal(m, 64<<10)
	o.settle(5 * time.Second)
	p := o.alpha.status().Peers[0]
	if p.LatencyMS < 40 || p.LatencyMS > 400 {
		t.Errorf("latency over a line of 40 ms there and back is %v ms", p.LatencyMS)
	}
	for range 20 {
		if o.settle(200 * time.Millisecond); o.alpha.path() != node.PathDirect || o.beta.path() != node.PathDirect {
			t.Errorf("a line that loses 1 %% is not used directly")
			break
		}
	}
	o.cut()
	o.restore()
	o.finish()
}
