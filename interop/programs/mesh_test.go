package programs

import (
	"strings"
	"testing"
	"time"
)

// baseDomain is the domain of the nodes' names.
const baseDomain = "net.example"

// The region of the one relay of a mesh.
const (
	regionID   = 900
	regionCode = "test"
)

// coordinator is a coordination server of either make, in the hub.
type coordinator interface {
	url() string
	// authKey makes a key that lets any number of nodes in.
	authKey(t *testing.T) string
	stop(t *testing.T)
	start(t *testing.T)
	// members are the nodes that it knows, by name, and whether each is connected.
	members(t *testing.T) map[string]bool
	// approveRoutes has traffic pass by the routes that a node advertises.
	approveRoutes(t *testing.T, node string)
}

// mesh is a network with nodes of both makes.
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

// join starts nodes, one after the other, and waits until each has heard of each.
func (m *mesh) join(nodes ...node) {
	m.t.Helper()
	for _, n := range nodes {
		n.up(m.server.url(), m.key)
	}
	m.nodes = append(m.nodes, nodes...)
	m.pairs(func(from, to node) {
		took := eventually(m.t, from.machine().name+" knows "+to.machine().name, func() bool { return from.knows(to.machine().name) })
		m.t.Logf("%s knows %s after another %v", from.machine().name, to.machine().name, took.Round(time.Millisecond))
	})
}

// unlock opens or closes the direct way between all nodes.
func (m *mesh) unlock(open bool) {
	m.t.Helper()
	for _, n := range m.nodes {
		n.machine().unlock(open)
	}
}

// pairs calls f with each node and each other one.
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

// exchange proves that every node reaches every other by name, short and full, and by address, and
// that bulk passes.
func (m *mesh) exchange() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		reach(m.t, from, to, to.machine().name)
		reach(m.t, from, to, to.machine().name+"."+baseDomain)
		reach(m.t, from, to, to.address().String())
		carry(m.t, from, to)
	})
}

// take proves that every node reaches every other by a path of this kind.
func (m *mesh) take(path string) {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		takes(m.t, path, from, to)
	})
}

// recovered waits until every node reaches every other again.
func (m *mesh) recovered() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		recovers(m.t, from, to)
	})
}

// survive proves that the mesh goes on after a restart of the server and of each node, by which
// nobody has to log in again or becomes somebody else. What end does to a node is what a restart
// begins with.
func (m *mesh) survive(end func(*process)) {
	m.t.Helper()
	m.withoutServer()
	m.restartNodes(end)
}

// surviveRelayed proves that the mesh outlives a restart of all that it consists of, while it
// depends on the relay.
func (m *mesh) surviveRelayed() {
	m.t.Helper()
	m.reachAll()
	m.t.Log("the relay is away")
	m.relay.restart(m.t, m.separated)
	m.recovered()
	m.take("relay")
	m.survive((*process).stop)
}

// surviveDirect proves the same of a mesh with direct paths, which does not notice that the relay
// is away.
func (m *mesh) surviveDirect() {
	m.t.Helper()
	m.unlock(true)
	m.take("direct")
	m.t.Log("the relay is away, and nobody needs it")
	m.relay.restart(m.t, m.reachAll)
	m.survive((*process).kill)
	m.take("direct")
}

// bothWays restarts all that a mesh of our node and tailscaled consists of, one with a relay and
// one with direct paths.
func bothWays(t *testing.T, found func(*testing.T) *mesh) {
	t.Parallel()
	for name, survive := range map[string]func(*mesh){"relayed": (*mesh).surviveRelayed, "direct": (*mesh).surviveDirect} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := found(t)
			m.join(newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")))
			survive(m)
		})
	}
}

// withoutServer restarts the server. Meanwhile all goes on.
func (m *mesh) withoutServer() {
	m.t.Helper()
	m.t.Log("the server is away")
	m.server.stop(m.t)
	m.reachAll()
	m.server.start(m.t)
	m.present()
	m.reachAll()
}

// restartNodes ends and starts one node after the other.
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
		m.recovered()
	}
	m.present()
}

// reachAll makes sure that every node reaches every other, now.
func (m *mesh) reachAll() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		reach(m.t, from, to, to.machine().name)
	})
}

// separated makes sure that no node reaches another.
func (m *mesh) separated() {
	m.t.Helper()
	m.pairs(func(from, to node) {
		m.t.Helper()
		if got, err := fetchWithin(time.Second, from, to.machine().name, "/"); err == nil {
			m.t.Errorf("%s reaches %s without a way: %q", from.machine().name, to.machine().name, got)
		}
	})
}

// present waits until the server knows all nodes as connected, and makes sure that it knows no
// others.
func (m *mesh) present() {
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

// indent makes a block of lines that belongs to one of a log.
func indent(s string) string { return "\t" + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n\t") }
