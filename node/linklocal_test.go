package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"ginnel/key"
)

// Link-local addresses of a peer are reached through the tunnel, whatever zone a client names, and
// never on the host's network.
func TestLinkLocalAddressesOfPeer(t *testing.T) {
	k := key.NewNodePrivate()
	p := newStockPeer(t, &addressBind{ip: "127.0.0.1"}, k.Public())
	special := []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("169.254.7.1")}
	if err := p.stack.SetAddrs(prefixes("10.9.0.1/32", "fe80::1/128", "169.254.7.1/32")); err != nil {
		t.Fatal(err)
	}
	public := k.Public()
	if err := p.dev.IpcSet(fmt.Sprintf("public_key=%x\nallowed_ip=fe80::2/128\nallowed_ip=169.254.7.2/32\n",
		public[:])); err != nil {
		t.Fatal(err)
	}
	for _, a := range special {
		ln, err := p.stack.Listen(netip.AddrPortFrom(a, 7))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				go io.Copy(c, c)
			}
		}()
	}
	n := plainNode(t, k, p, Endpoint{Host: "127.0.0.1", Port: p.port}, func(c *Config) {
		c.Map.Addresses = prefixes("10.9.0.2/24", "fe80::2/64", "169.254.7.2/16")
		c.Map.Peers[0].Addresses = prefixes("10.9.0.0/24", "fe80::/64", "169.254.0.0/16")
		c.DialHost = func(_ context.Context, _, addr string) (net.Conn, error) {
			return nil, fmt.Errorf("the host was asked for %s", addr)
		}
	})
	for _, addr := range []string{"169.254.7.1:7", "[fe80::1]:7", "[fe80::1%lo]:7"} {
		c, err := n.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if err := roundTrip(t, c, "echo", 5*time.Second); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		c.Close()
	}
	// Outside the mesh, the zone names a link of the host.
	if _, err := n.DialContext(t.Context(), "tcp", "[fe80:1::1%lo]:7"); err == nil ||
		err.Error() != "dialling [fe80:1::1%lo]:7: the host was asked for [fe80:1::1%lo]:7" {
		t.Errorf("outside the mesh: %v", err)
	}
	if v := n.Why(t.Context(), "[fe80:1::1%lo]:7"); v.Broken != StepTCP ||
		v.Text != "the host was asked for [fe80:1::1%lo]:7" {
		t.Errorf("outside the mesh: %+v", v)
	}
	if v := n.Why(t.Context(), "[fe80::1%lo]:7"); v.Broken != "" {
		t.Errorf("in the mesh: %+v", v)
	}
}
