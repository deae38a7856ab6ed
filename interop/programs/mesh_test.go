package programs

import (
	"strings"
	"testing"
	"time"
)

// baseDomain is the parent domain of all nodes' names.
const baseDomain = "net.example"

// The ID and the code of the only region of a mesh.
const (
	regionID   = 900
	regionCode = "test"
)

// coordinator is a coordination server of either make, running in the hub.
type coordinator interface {
	url() string
	// authKey makes a reusable key.
	authKey(t *testing.T) string
	stop(t *testing.T)
	start(t *testing.T)
	// members returns whether each node is connected, by name.
	members(t *testing.T) map[string]bool
	// approveRoutes approves all routes that a node advertises.
	approveRoutes(t *testing.T, node string)
}

// mesh is a network with nodes of both makes, its server and its relay.
type mesh struct {
	t      *testing.T
	server coordinator
	relay  *relayProgram
	key    string
	nodes  []node
}

func newMesh(t *testing.T, server coordinator, relay *relayProgram) *mesh {
	t.Helper()
	return &mesh{t: t, server: server, relay: relay, key: server.authKey(t)}
}

// join starts nodes, one after the other, and waits until each has all others in its map.
func (m *mesh) join(nodes ...node) {
	m.t.Helper()
	for _, n := range nodes {
		n.up(m.server.url(), m.key)
	}
	m.nodes = append(m.nodes, nodes...)
	m.pairs(func(from, to node) {
		took := eventually(m.t, from.machine().name+" knows "+to.machine().name,
			func() bool { return from.knows(to.machine().name) })
		m.t.Logf("%s knows %s after another %v", from.machine().name, to.machine().name, took.Round(time.Millisecond))
	})
}

// allowDirect allows direct paths between all nodes.
func (m *mesh) allowDirect() {
	m.t.Helper()
	for _, n := range m.nodes {
		n.machine().allowDirect()
	}
}

// blockDirect blocks direct paths between all nodes.
func (m *mesh) blockDirect() {
	m.t.Helper()
	for _, n := range m.nodes {
		n.machine().blockDirect()
	}
}

// pairs calls f for every ordered pair of nodes.
func (m *mesh) pairs(f func(from, to node)) {
	m.t.Helper()
	for _, from := range m.nodes {
		for _, to := range m.nodes {
			if from != to {
				f(from, to)
			}
		}
	}
}

// exchange proves that every node reaches every other by short name, full name and address, and
// that bulk data pass.
func (m *mesh) exchange() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		mustReach(m.t, from, to, to.machine().name)
		mustReach(m.t, from, to, to.machine().name+"."+baseDomain)
		mustReach(m.t, from, to, to.address().String())
		fetchBulk(m.t, from, to)
	})
}

// awaitPaths waits until every node reaches every other by a path of this kind.
func (m *mesh) awaitPaths(path string) {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		awaitPath(m.t, path, from, to)
	})
}

// awaitRecovery waits until every node reaches every other again.
func (m *mesh) awaitRecovery() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		awaitReachable(m.t, from, to)
	})
}

// survive restarts the server and then each node, which it ends by end. The mesh must recover, and
// every node must keep its identity without a new login.
func (m *mesh) survive(end func(*process)) {
	m.t.Helper()
	m.withoutServer()
	m.restartNodes(end)
}

// surviveRelayed proves that a mesh on relayed paths survives a restart of every part.
func (m *mesh) surviveRelayed() {
	m.t.Helper()
	m.reachAll()
	m.t.Log("the relay is stopped")
	m.relay.restart(m.t, m.separated)
	m.awaitRecovery()
	m.awaitPaths("relay")
	m.survive((*process).stop)
}

// surviveDirect proves the same for a mesh on direct paths, which does not need the relay.
func (m *mesh) surviveDirect() {
	m.t.Helper()
	m.allowDirect()
	m.awaitPaths("direct")
	m.t.Log("the relay is stopped, and no path needs it")
	m.relay.restart(m.t, m.reachAll)
	m.survive((*process).kill)
	m.awaitPaths("direct")
}

// testRestarts restarts every part of a mesh of our node and tailscaled, once with relayed and once
// with direct paths.
func testRestarts(t *testing.T, create func(*testing.T) *mesh) {
	t.Parallel()
	for name, survive := range map[string]func(*mesh){"relayed": (*mesh).surviveRelayed, "direct": (*mesh).surviveDirect} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := create(t)
			m.join(newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")))
			survive(m)
		})
	}
}

// withoutServer restarts the server. The mesh must work while it is stopped.
func (m *mesh) withoutServer() {
	m.t.Helper()
	m.t.Log("the server is stopped")
	m.server.stop(m.t)
	m.reachAll()
	m.server.start(m.t)
	m.awaitConnected()
	m.reachAll()
}

// restartNodes ends and starts one node after the other. Each must keep its address.
func (m *mesh) restartNodes(end func(*process)) {
	t := m.t
	t.Helper()
	for _, n := range m.nodes {
		t.Log(n.machine().name, "restarts")
		before := n.address()
		end(n.program())
		n.up(m.server.url(), "")
		if got := n.address(); got != before {
			t.Errorf("%s came back as %s, was %s", n.machine().name, got, before)
		}
		m.awaitRecovery()
	}
	m.awaitConnected()
}

// reachAll checks that every node reaches every other without retries.
func (m *mesh) reachAll() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		mustReach(m.t, from, to, to.machine().name)
	})
}

// separated checks that no node reaches another.
func (m *mesh) separated() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		if got, err := fetchWithin(time.Second, from, to.machine().name, "/"); err == nil {
			m.t.Errorf("%s reaches %s without relay and direct path: %q", from.machine().name, to.machine().name, got)
		}
	})
}

// awaitConnected waits until the server shows all nodes as connected, and checks that it knows no
// others.
func (m *mesh) awaitConnected() {
	t := m.t
	t.Helper()
	took := eventually(t, "all nodes are connected to the server", func() bool {
		online := 0
		for _, on := range m.server.members(t) {
			if on {
				online++
			}
		}
		return online == len(m.nodes)
	})
	t.Logf("all nodes are connected to the server after %v", took.Round(time.Millisecond))
	if all := m.server.members(t); len(all) != len(m.nodes) {
		t.Errorf("the server knows %d nodes, want %d: %v", len(all), len(m.nodes), all)
	}
}

// indent indents the output of a program in a log message.
func indent(s string) string { return "\t" + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n\t") }
