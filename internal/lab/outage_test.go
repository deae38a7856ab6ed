//go:build lab

package lab

import (
	"testing"
	"time"

	"ginnel/internal/netem"
	"ginnel/node"
)

// transferPair is one transfer in each direction between two nodes of a mesh, whose network changes
// meanwhile.
type transferPair struct {
	*mesh
	ab, ba *bulk
}

func startTransferPair(m *mesh, rate uint64) *transferPair {
	m.t.Helper()
	tp := &transferPair{mesh: m, ab: m.alpha.bulk(rate)}
	tp.ba = m.beta.bulk(rate)
	tp.awaitPaths(node.PathDirect, 20*time.Second)
	return tp
}

// flows waits until both transfers have made progress and returns how long that took.
func (tp *transferPair) flows(what string, limit time.Duration) time.Duration {
	tp.t.Helper()
	start := time.Now()
	tp.ab.flows(what+", from alpha", limit)
	tp.ba.flows(what+", from beta", limit)
	return time.Since(start).Round(time.Millisecond)
}

// silence returns the longest silence of either transfer since its last call.
func (tp *transferPair) silence() time.Duration {
	return max(tp.ab.longestSilence(), tp.ba.longestSilence())
}

// settle lets the transfers run undisturbed for a while and resets the longest silence.
func (tp *transferPair) settle(d time.Duration) {
	tp.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		tp.flows("undisturbed", dialTimeout)
	}
	tp.silence()
}

// awaitPaths waits until both nodes' paths are of the wanted kind.
func (tp *transferPair) awaitPaths(want node.PathKind, limit time.Duration) time.Duration {
	tp.t.Helper()
	start := time.Now()
	tp.alpha.awaitPath(want, limit)
	tp.beta.awaitPath(want, limit)
	return time.Since(start).Round(time.Millisecond)
}

func (tp *transferPair) finish() {
	tp.t.Helper()
	tp.ab.finish()
	tp.ba.finish()
}

// cut blocks UDP and checks that the transfers continue over the relay within seconds.
func (tp *transferPair) cut() {
	tp.t.Helper()
	tp.settle(time.Second)
	tp.cutUDP()
	took := tp.flows("after UDP is cut", 10*time.Second)
	paths := tp.awaitPaths(node.PathRelay, 20*time.Second)
	tp.t.Logf("UDP cut: over the relay after %v (longest silence %v), in the status after %v", took, tp.silence(),
		took+paths)
}

// restore unblocks UDP and checks that the transfers return to the direct path.
func (tp *transferPair) restore() {
	tp.t.Helper()
	tp.settle(time.Second)
	tp.restoreUDP()
	paths := tp.awaitPaths(node.PathDirect, 30*time.Second)
	tp.flows("after UDP is back", 15*time.Second)
	tp.t.Logf("UDP restored: direct again after %v (longest silence %v)", paths, tp.silence())
}

// relayOutage ends the relay by end, starts it again after outage, and checks that the transfers
// continue. If allowed is not zero, it bounds their longest silence.
func (tp *transferPair) relayOutage(what string, outage time.Duration, end func(), allowed time.Duration) {
	tp.t.Helper()
	tp.settle(time.Second)
	end()
	time.Sleep(outage)
	tp.relay.start()
	took := tp.flows(what, 20*time.Second)
	tp.alpha.awaitRelay(15 * time.Second)
	tp.beta.awaitRelay(15 * time.Second)
	silence := tp.silence()
	tp.t.Logf("%s: flows %v after its start (longest silence %v)", what, took, silence)
	if allowed > 0 && silence > allowed {
		tp.t.Errorf("%s: silent for %v, want no more than %v", what, silence, allowed)
	}
}

// roam gives a node's host another address.
func (tp *transferPair) roam(n *meshNode, from, to int) {
	tp.t.Helper()
	tp.settle(time.Second)
	n.host.ip("addr", "del", n.insideAddr(from)+"/24", "dev", "wan")
	n.host.addr("wan", n.insideAddr(to)+"/24")
	n.host.ip("route", "replace", "default", "via", n.gateway())
	took := tp.flows(n.order.Name+" has roamed", 30*time.Second)
	n.awaitRelay(20 * time.Second)
	paths := tp.awaitPaths(node.PathDirect, 30*time.Second)
	tp.t.Logf("%s roamed: flows after %v (longest silence %v), direct and connected to the relay again after %v",
		n.order.Name, took, tp.silence(), took+paths)
}

// One transfer in each direction survives a series of events, some of them at the same time: UDP is
// blocked and unblocked; the relay is killed, both while it is unused and while it carries the
// transfers; it is restarted gracefully; and each node moves to another address. No connection
// breaks, and no byte is lost or duplicated.
func TestTransfersOutliveTheirPaths(t *testing.T) {
	t.Parallel()
	for _, a := range []access{open, easy} {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			tp := startTransferPair(newMesh(t, a, a), meshRate)
			tp.cut()
			tp.restore()
			tp.relayOutage("relay killed for 2 s, direct path", 2*time.Second, func() { tp.relay.kill() }, time.Second)
			tp.cut()
			tp.relayOutage("relay killed for 2 s, relayed", 2*time.Second, func() { tp.relay.kill() }, 0)
			tp.relayOutage("relay restarted, relayed", 0, func() { tp.endRelay() }, 0)
			tp.restore()
			tp.roam(tp.alpha, 2, 3)
			tp.roam(tp.beta, 2, 4)
			tp.finish()
		})
	}
}

// endRelay shuts the relay down gracefully.
func (m *mesh) endRelay() {
	m.t.Helper()
	status, took := m.relay.terminate()
	if status != 0 || took > 6*time.Second {
		m.t.Errorf("relay ended with status %d after %v", status, took.Round(time.Millisecond))
	}
	m.t.Logf("relay shut down gracefully in %v", took.Round(time.Millisecond))
}

// On an access line with 20 ms of delay each way and 1 % loss, the direct path is found and kept,
// left when UDP is blocked and taken again afterwards, as on any other line.
func TestLossyLine(t *testing.T) {
	t.Parallel()
	m := newMeshHosts(t, easy, open)
	lossy := netem.Config{Delay: 20 * time.Millisecond, Loss: 0.01}
	wireLink(m.alpha.host, "wan", m.alpha.router, "inside", lossy, lossy)
	link(m.beta.host, "wan", m.beta.router, "inside")
	m.start()
	tp := startTransferPair(m, 64<<10)
	tp.settle(5 * time.Second)
	p := tp.alpha.status().Peers[0]
	if p.LatencyMS < 40 || p.LatencyMS > 400 {
		t.Errorf("latency is %v ms on a line with a round trip of 40 ms", p.LatencyMS)
	}
	for range 20 {
		if tp.settle(200 * time.Millisecond); tp.alpha.path() != node.PathDirect || tp.beta.path() != node.PathDirect {
			t.Errorf("the path over a line with 1 %% loss is not direct")
			break
		}
	}
	tp.cut()
	tp.restore()
	tp.finish()
}
