package node

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// No route takes the address of another node, even if the server sends one. The default routes of
// an exit node are used, and the route of a service address.
func TestRoutesDoNotTakeNodes(t *testing.T) {
	victim := &control.Node{Addresses: prefixes("100.64.0.7/32", "fd7a:115c:a1e0::7/128", "198.51.100.7/32")}
	router := &control.Node{Addresses: prefixes("100.64.0.8/32"), AllowedIPs: prefixes(
		"100.64.0.8/32", "100.64.0.7/32", "100.64.0.1/32", "100.64.0.0/24", "fd7a:115c:a1e0::/64", "198.51.100.0/24",
		"10.0.0.0/8", "192.0.2.1/32", "100.64.99.1/32", "0.0.0.0/0", "::/0")}
	m := &control.NetMap{Self: &control.Node{Addresses: prefixes("100.64.0.1/32")}, Peers: []*control.Node{router, victim}}
	taken := func() map[netip.Prefix]bool { return nodeAddresses(m) }
	for _, c := range []struct {
		accept bool
		exit   *control.Node
		want   []netip.Prefix
	}{
		{false, nil, prefixes("100.64.0.8/32", "100.64.99.1/32")},
		{true, nil, prefixes("100.64.0.8/32", "10.0.0.0/8", "192.0.2.1/32", "100.64.99.1/32")},
		{false, router, prefixes("100.64.0.8/32", "100.64.99.1/32", "0.0.0.0/0", "::/0")},
	} {
		mapper := &mapper{cfg: &Control{AcceptRoutes: c.accept}, log: slog.New(slog.DiscardHandler)}
		if got := mapper.allowed(router, c.exit, taken); !slices.Equal(got, c.want) {
			t.Errorf("routes accepted %v, exit node %v: %v, want %v", c.accept, c.exit != nil, got, c.want)
		}
	}
}

// A peer with an invalid key is left out.
func TestPeerOfLowOrder(t *testing.T) {
	for k, want := range map[key.NodePublic]bool{key.NewNodePrivate().Public(): true, {}: false, {0: 1}: false} {
		if got := usable(&control.Node{Key: k, HomeDERP: 1}, time.Now()); got != want {
			t.Errorf("a peer with the key %v is used: %v", k, got)
		}
	}
}
