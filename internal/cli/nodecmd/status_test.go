package nodecmd

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"ginnel/node"
)

// People see which peers are away, and since when, what each has and what it is the way to.
func TestShowStatus(t *testing.T) {
	online, offline := true, false
	var routes []netip.Prefix
	for _, text := range []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16"} {
		routes = append(routes, netip.MustParsePrefix(text))
	}
	addrs := func(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }
	s := node.Status{State: node.StateRunning, Proxies: []string{"127.0.0.1:1080"}, Peers: []node.PeerStatus{
		{Name: "here", Addresses: addrs("100.64.0.2"), Routes: routes, Online: &online, Path: node.PathRelay, Relay: "fra",
			LastHandshake: time.Now().Add(-90 * time.Second)},
		{Name: "away", Addresses: addrs("100.64.0.3"), Online: &offline, LastSeen: time.Now().Add(-75 * time.Hour),
			Path: node.PathNone},
		{Name: "gone", Addresses: addrs("100.64.0.4"), Online: &offline, Path: node.PathNone},
		{Name: "lost", Addresses: addrs("100.64.0.5"), Path: node.PathRelay, Relay: "fra", DirectLossy: true},
		{Name: "calm", Addresses: addrs("100.64.0.6"), Online: &online, Path: node.PathNone},
		{Name: "used", Addresses: addrs("100.64.0.7"), Path: node.PathNone, RxBytes: 5, TxBytes: 5,
			LastHandshake: time.Now().Add(-time.Hour)},
		{Name: "mute", Addresses: addrs("100.64.0.8"), Path: node.PathNone, TxBytes: 148},
		{Name: "wire", Addresses: addrs("10.9.0.1"), Path: node.PathDirect, Endpoint: "192.0.2.1:51820"},
	}}
	var out strings.Builder
	if err := showStatus(&out, &s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`here  100\.64\.0\.2 10\.1\.0\.0/16 10\.2\.0\.0/16 10\.3\.0\.0/16 and 2 more +relay fra .* 1 min ago`,
		`away  100\.64\.0\.3 +offline, last seen 3 days ago `,
		`gone  100\.64\.0\.4 +offline  `,
		`lost  100\.64\.0\.5 +relay fra \(the direct path loses packets\) .* never`,
		`calm  100\.64\.0\.6 +idle +0 B +0 B `,
		`used  100\.64\.0\.7 +idle .* 1 h ago`,
		`mute  100\.64\.0\.8 +none: no answer .* never`,
		`wire  10\.9\.0\.1 +direct 192\.0\.2\.1:51820 .* never`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line like %q in\n%s", want, &out)
		}
	}
}
