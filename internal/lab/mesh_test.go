//go:build lab

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// mesh is two nodes behind routers, and a relay with STUN that both can reach:
//
//	alpha ────── router ──────┐                  ┌────── router ────── beta
//	10.1.0.2     198.51.100.2 ├──── internet ────┤ 203.0.113.2     10.2.0.2
//	(100.64.0.1)              │  .1 of each net  │             (100.64.0.2)
//	                          └── relay 192.0.2.2 (internet 192.0.2.1)
type mesh struct {
	t           *testing.T
	internet    *netns
	relayHost   *netns
	relay       *relayServer
	alpha, beta *meshNode
}

// access is how a node is connected to the internet of the lab.
type access string

const (
	open access = "open" // no NAT: peers see the node's own address
	easy access = "easy" // behind a NAT with endpoint-independent mapping
	hard access = "hard" // behind a NAT with a different port for each destination
)

// meshNode is a process with the role "node", its host and its router.
type meshNode struct {
	*process
	host, router *netns
	order        nodeOrder
	disco        key.DiscoPublic
}

// meshRate is the usual rate of a transfer in a mesh, in bytes a second each way.
const meshRate = 2 << 20

// newMesh builds the networks, starts the relay and the nodes, and waits until both are connected
// to the relay.
func newMesh(t *testing.T, a, b access) *mesh {
	t.Helper()
	m := newMeshHosts(t, a, b)
	link(m.alpha.host, "wan", m.alpha.router, "inside")
	link(m.beta.host, "wan", m.beta.router, "inside")
	m.start()
	return m
}

// newMeshHosts builds the networks without the links between hosts and their routers, and starts
// nothing.
func newMeshHosts(t *testing.T, a, b access) *mesh {
	t.Helper()
	m := &mesh{t: t, internet: newNetns(t, "internet"), relayHost: newNetns(t, "relay")}
	m.internet.forward()
	link(m.internet, "relay", m.relayHost, "wan")
	m.internet.addr("relay", "192.0.2.1/24")
	m.relayHost.addr("wan", "192.0.2.2/24")
	m.relayHost.route("192.0.2.1", "default")
	m.alpha = m.newNode("alpha", a, "198.51.100", "10.1.0.0/24", "100.64.0.1")
	m.beta = m.newNode("beta", b, "203.0.113", "10.2.0.0/24", "100.64.0.2")
	return m
}

func (m *mesh) newNode(name string, a access, wan, inside, addr string) *meshNode {
	m.t.Helper()
	n := &meshNode{host: newNetns(m.t, name), router: newNetns(m.t, name+"-router")}
	n.router.forward()
	link(m.internet, name, n.router, "wan")
	m.internet.addr(name, wan+".1/24")
	n.router.addr("wan", wan+".2/24")
	n.router.route(wan+".1", "default")
	switch a {
	case open:
		m.internet.route(wan+".2", inside)
	case easy:
		n.router.nat("wan", "masquerade")
	case hard:
		n.router.nat("wan", "masquerade random")
	}
	n.order = nodeOrder{
		Key:       key.NewNodePrivate(),
		Name:      name,
		Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/32")},
		Proxy:     defaultProxy,
		Serves:    map[uint16]string{80: "127.0.0.1:80", 5001: "127.0.0.1:5001", 7: "127.0.0.1:7"},
	}
	return n
}

// gateway is the router's address on the network between the node's host and its router.
func (n *meshNode) gateway() string {
	if n.order.Name == "alpha" {
		return "10.1.0.1"
	}
	return "10.2.0.1"
}

// insideAddr is the i-th address of that network.
func (n *meshNode) insideAddr(i int) string {
	return strings.TrimSuffix(n.gateway(), "1") + fmt.Sprint(i)
}

// start gives the hosts their addresses and starts the services, the relay and the nodes.
func (m *mesh) start() {
	m.t.Helper()
	for _, n := range []*meshNode{m.alpha, m.beta} {
		n.router.addr("inside", n.gateway()+"/24")
		n.host.addr("wan", n.insideAddr(2)+"/24")
		n.host.route(n.gateway(), "default")
		n.host.startServices(n.order.Name)
	}
	m.relay = startRelay(m.relayHost, "192.0.2.2")
	for _, n := range []*meshNode{m.alpha, m.beta} {
		n.order.Relays, n.order.Home = m.relay.relays(), relayRegion
		n.start()
	}
	m.setPeer(m.alpha, m.beta)
	m.setPeer(m.beta, m.alpha)
	for _, n := range []*meshNode{m.alpha, m.beta} {
		n.awaitRelay(dialTimeout)
	}
}

// setPeer makes other the only peer in n's network map.
func (m *mesh) setPeer(n, other *meshNode) {
	n.order.Peers = []node.Peer{{Name: other.order.Name, Key: other.order.Key.Public(), Addresses: other.order.Addresses,
		Disco: other.disco, Region: relayRegion}}
	n.tell()
}

// tell sends the node its current order.
func (n *meshNode) tell() {
	n.t.Helper()
	if err := json.NewEncoder(n.in).Encode(n.order); err != nil {
		n.t.Fatal(err)
	}
}

// start starts the node with its current order.
func (n *meshNode) start() {
	t := n.host.t
	t.Helper()
	n.process = n.host.role("node", asNobody)
	secret := n.order.Key.Raw()
	t.Cleanup(func() { assertSound(t, n.name, n.out.String()+n.log.String(), secret) })
	n.tell()
	var a nodeAnswer
	if err := json.Unmarshal([]byte(n.await(&n.out, "Disco", dialTimeout)), &a); err != nil {
		t.Fatal(err)
	}
	n.disco = a.Disco
}

// get fetches one of the node's own pages.
func (n *meshNode) get(path string) (int, []byte) {
	return n.host.get(n.t, "http://"+defaultProxy+path)
}

// status returns the node's status.
func (n *meshNode) status() (s node.Status) {
	n.t.Helper()
	if _, body := n.get("/api/v1/status"); json.Unmarshal(body, &s) != nil {
		n.t.Fatalf("status of %s: %s", n.name, body)
	}
	return s
}

func (n *meshNode) path() node.PathKind { return n.status().Peers[0].Path }

// awaitPath waits until the node's path to its peer is of the wanted kind.
func (n *meshNode) awaitPath(want node.PathKind, limit time.Duration) time.Duration {
	n.t.Helper()
	return eventually(n.t, fmt.Sprintf("the path of %s is %q", n.order.Name, want), limit,
		func() bool { return n.path() == want })
}

// awaitRelay waits until the node is connected to the relay.
func (n *meshNode) awaitRelay(limit time.Duration) time.Duration {
	n.t.Helper()
	return eventually(n.t, n.order.Name+" is connected to the relay", limit, func() bool {
		s := n.status()
		return len(s.Relays) > 0 && s.Relays[0].State == relay.RegionConnected.String()
	})
}

// bulk starts a transfer through the node's proxy with its peer.
func (n *meshNode) bulk(rate uint64) *bulk {
	n.t.Helper()
	c, err := n.host.viaSOCKS(defaultProxy, net.JoinHostPort(n.order.Peers[0].Name, bulkPort))
	if err != nil {
		n.t.Fatalf("%s: %v", n.order.Name, err)
	}
	b := startBulk(n.t, c, rate)
	b.flows("at first", dialTimeout)
	return b
}

// cutUDP drops all UDP between the networks except STUN.
func (m *mesh) cutUDP() {
	m.t.Helper()
	m.internet.nft("table inet cut { chain cut { type filter hook forward priority filter; " +
		"udp dport != 3478 udp sport != 3478 drop; }; }")
}

func (m *mesh) restoreUDP() {
	m.t.Helper()
	m.internet.nft("delete table inet cut")
}

// get fetches a page from the namespace, without a proxy.
func (n *netns) get(t *testing.T, url string) (status int, body []byte) {
	t.Helper()
	tr := &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, readAll(t, resp.Body)
}
