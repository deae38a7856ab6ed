package wireguard

import (
	"net/netip"
	"testing"

	"ginnel/key"
)

// The longest prefix wins. If two peers claim the same prefix, the last one gets it. A prefix that
// its peer gives up belongs to nobody.
func TestAllowedIPs(t *testing.T) {
	var r allowedIPs
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
			t.Errorf("%s does not belong to peer %q", addr, name)
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
	set("host", "fd00::1/128") // gives up 10.1.2.3/32, which meanwhile belongs to late
	want("10.1.2.3", "late")
	r.remove(named["late"])
	want("10.1.2.4", "net")
	want("10.1.2.3", "net")
	r.remove(named["all"])
	want("192.0.2.1", "nobody")
}
