package server

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"ginnel/control"
)

var crowdSize = flag.Int("nodes", 200, "how many nodes the churn test has")

// joinMany lets nodes join at the same time.
func (n *testNet) joinMany(size int, authKey string) []*peer {
	n.t.Helper()
	peers := make([]*peer, size)
	var wg sync.WaitGroup
	for i := range peers {
		p := n.newPeer(fmt.Sprintf("node-%d", i))
		peers[i] = p
		wg.Go(func() {
			p.register(withKey(authKey))
			p.stream()
			p.update(nil)
		})
	}
	wg.Wait()
	settle()
	return peers
}

// While nodes roam, restart and leave, all maps follow. In the end each map equals what a new
// stream would get.
func TestChurn(t *testing.T) {
	for name, policy := range map[string]string{"open": "", "policy": webPolicy} {
		t.Run(name, func(t *testing.T) {
			onNet(t, nil, func(t *testing.T, n *testNet) {
				if policy != "" {
					n.setPolicy(policy)
				}
				churn(t, n)
			})
		})
	}
}

func churn(t *testing.T, n *testNet) {
	size := *crowdSize
	if raceEnabled {
		size /= 4
	} else if n.hasPolicy() {
		size /= 2
	}
	plain := n.authKey(nil)
	tagged := n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:web"}; r.Ephemeral = true })
	peers := append(n.joinMany(size-size/4, plain), n.joinMany(size/4, tagged)...)
	r := rand.New(rand.NewPCG(1, 2))
	for range size {
		p := peers[r.IntN(len(peers))]
		switch r.IntN(5) {
		case 0, 1:
			ep := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(256))}), 41641)
			p.update(func(req *control.MapRequest) { req.Endpoints = []netip.AddrPort{ep} })
		case 2:
			p.host.Hostname = fmt.Sprintf("moved-%d", r.IntN(10))
			p.update(nil)
		case 3:
			p.endStream()
			p.stream()
		case 4:
			p.Logout(t.Context(), p.request())
			p.register(withKey(plain))
			p.endStream()
			p.stream()
		}
	}
	settle()
	for _, p := range peers {
		compareView(t, n, p)
	}
	if !n.hasPolicy() {
		linear(t, n, peers)
	}
}

func (n *testNet) hasPolicy() bool {
	p, err := n.server.currentPolicy(n.t.Context())
	return err == nil && p.Text != ""
}

// compareView compares a map with the one that a new stream would get.
func compareView(t *testing.T, n *testNet, p *peer) {
	t.Helper()
	m, _ := p.latestMap()
	v := n.server.core.latest.Load()
	if v.node(m.Self.ID) == nil {
		t.Errorf("%s does not exist any more", m.Self.Name)
		return
	}
	want := v.fullMap(&clientState{id: m.Self.ID}, "", m.ControlTime)
	if len(want.Peers) != len(m.Peers) {
		t.Errorf("%s has %d peers, want %d", m.Self.Name, len(m.Peers), len(want.Peers))
		return
	}
	for i, peer := range want.Peers {
		if got, want := essence(m.Peers[i]), essence(peer); got != want {
			t.Errorf("%s has\n%s want\n%s", m.Self.Name, got, want)
			return
		}
	}
	if got, want := essence(m.Self), essence(want.Node); got != want {
		t.Errorf("%s has itself as\n%s want\n%s", m.Self.Name, got, want)
	}
	if got, want := string(mustJSON(m.Filters["base"])), string(mustJSON(want.PacketFilters["base"])); got != want {
		t.Errorf("%s has the packet filter\n%s want\n%s", m.Self.Name, got, want)
	}
}

// essence formats a node without the differences that do not count: LastSeen of an online node, and
// whether empty endpoints are nil.
func essence(n *control.Node) string {
	c := *n
	if c.Online != nil && *c.Online {
		c.LastSeen = control.Node{}.LastSeen
	}
	if len(c.Endpoints) == 0 {
		c.Endpoints = nil
	}
	b, _ := json.Marshal(&c)
	return string(b)
}

// One change costs each other node one frame.
func linear(t *testing.T, n *testNet, peers []*peer) {
	t.Helper()
	total := func() (sum int) {
		for _, p := range peers {
			_, frames := p.latestMap()
			sum += frames
		}
		return sum
	}
	before := total()
	peers[0].update(func(r *control.MapRequest) {
		r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:7")}
	})
	settle()
	if got := total() - before; got != len(peers) {
		t.Errorf("one change among %d nodes cost %d frames", len(peers), got)
	}
}
