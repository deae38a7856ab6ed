package wireguard

import (
	"net/netip"
	"testing"

	"ginnel/internal/key"
)

// The longest prefix wins; of one that two peers have, the last has it; what a peer does not have
// any more is nobody's.
func TestRoutes(t *testing.T) {
	var r routes
	r.init()
	named := map[string]*peer{}
	for _, name := range []string{"all", "net", "host", "late"} {
		named[name] = newPeer(key.NewNodePrivate().Public())
	}
	set := func(name string, prefixes ...string) {
		var all []netip.Prefix
		for _, p := range prefixes {
			all = append(all, netip.MustParsePrefix(p))
		}
		r.set(named[name], all)
	}
	want := func(addr, name string) {
		t.Helper()
		if got := r.lookup(netip.MustParseAddr(addr)); got != named[name] {
			t.Errorf("%s is not of %q", addr, name)
		}
	}
	set("all", "0.0.0.0/0", "::/0")
	set("net", "10.1.0.0/16", "10.1.2.99/24", "fd00::/64")
	set("host", "10.1.2.3/32", "fd00::1/128")
	want("192.0.2.1", "all")
	want("2001:db8::1", "all")
	want("10.1.9.9", "net")
	want("10.1.2.4", "net")
	want("10.1.2.3", "host")
	want("fd00::1", "host")
	want("fd00::2", "net")
	set("late", "10.1.2.0/24", "10.1.2.3/32")
	want("10.1.2.4", "late")
	want("10.1.2.3", "late")
	set("host", "fd00::1/128") // which no longer has the other, and so takes nothing away
	want("10.1.2.3", "late")
	r.remove(named["late"])
	want("10.1.2.4", "net")
	want("10.1.2.3", "net")
	r.remove(named["all"])
	want("192.0.2.1", "nobody")
}
