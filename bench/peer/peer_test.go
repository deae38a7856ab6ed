package peer

import (
	"net/netip"
	"strings"
	"testing"

	"ginnel/configs"
)

// TestTunnel proves that ginnel parses the files of both ends, and that each has the other as its
// peer.
func TestTunnel(t *testing.T) {
	hosts := [2]netip.Addr{netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.3")}
	ends, err := newTunnel(hosts[0], hosts[1])
	if err != nil {
		t.Fatal(err)
	}
	var files [2]*configs.WireGuard
	for i, e := range ends {
		if files[i], err = configs.ParseWireGuard("wg0.conf", []byte(e.text)); err != nil {
			t.Fatalf("%v in\n%s", err, e.text)
		}
		if len(files[i].Peers) != 1 || len(files[i].Warnings) != 0 || files[i].ListenPort != wireGuardPort {
			t.Fatalf("got %+v", files[i])
		}
	}
	for i, f := range files {
		other, p := files[1-i], f.Peers[0]
		if p.PublicKey != other.PrivateKey.Public() {
			t.Errorf("end %d does not have the key of the other", i)
		}
		if addr, _ := p.Endpoint.AddrPort(); addr != netip.AddrPortFrom(hosts[1-i], wireGuardPort) {
			t.Errorf("end %d has the endpoint %v", i, addr)
		}
		if len(p.AllowedIPs) != 1 || p.AllowedIPs[0] != other.Addresses[0] || p.AllowedIPs[0].Addr() != ends[1-i].addr {
			t.Errorf("end %d allows %v, the other has %v", i, p.AllowedIPs, other.Addresses)
		}
	}
}

// TestContenders proves that names are unique, and that each contender has what its group needs.
func TestContenders(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range Contenders() {
		if names[c.Name] || c.Name == "" {
			t.Errorf("duplicate or empty name %q", c.Name)
		}
		names[c.Name] = true
		nodes := c.mesh != nil || c.plain != nil
		switch c.Group {
		case RelayGroup:
			if !nodes || c.relay == ownRelay {
				t.Errorf("%s has no nodes or no relay", c.Name)
			}
		case DERPGroup:
			if nodes || c.relay == ownRelay {
				t.Errorf("%s has nodes, or no relay", c.Name)
			}
		case DirectGroup:
			if c.relay != ownRelay || c.SOCKS.Kind == "" || c.HTTP.Kind == "" {
				t.Errorf("%s has a relay, or no proxies", c.Name)
			}
		}
	}
}

// TestBefore proves that WithBefore duplicates only contenders of our programs, under unique names.
func TestBefore(t *testing.T) {
	before := 0
	names := make(map[string]bool)
	for _, c := range WithBefore(Contenders(), "old") {
		if names[c.Name] {
			t.Errorf("duplicate or empty name %q", c.Name)
		}
		names[c.Name] = true
		if strings.HasSuffix(c.Name, "-before") {
			before++
			if c.build != "old" || strings.Contains(c.Name, "tailscaled") {
				t.Errorf("%s has its programs in %q", c.Name, c.build)
			}
		} else if c.build != "" {
			t.Errorf("%s has its programs in %q", c.Name, c.build)
		}
	}
	if before != 4 {
		t.Errorf("%d contenders of the other build, want 4", before)
	}
}

// TestVersions proves that programs that were not built are omitted.
func TestVersions(t *testing.T) {
	if got := Versions(Programs(t.TempDir()), Contenders()); len(got) != 0 {
		t.Errorf("empty directory: got %v", got)
	}
}
