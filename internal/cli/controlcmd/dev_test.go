package controlcmd

import (
	"net"
	"net/netip"
	"testing"
)

// The line of control serve --dev names an address that another machine can use, and that nodes
// take plain HTTP to, if the interface has one.
func TestDevAddress(t *testing.T) {
	for _, test := range []struct {
		out    string
		others []string
		want   string
	}{
		{"192.168.1.2", nil, "192.168.1.2"},
		{"203.0.113.5", []string{"203.0.113.5", "10.0.0.5"}, "10.0.0.5"},
		{"203.0.113.5", []string{"203.0.113.5", "2001:db8::5", "fe80::5"}, "203.0.113.5"},
		{"2001:db8::5", []string{"2001:db8::5", "fd00::5", "fe80::5"}, "fd00::5"},
		{"fd00::5", []string{"fd00::5", "192.168.1.2"}, "192.168.1.2"},
		{"192.168.1.2", []string{"192.168.1.2", "fd00::5", "10.0.0.5"}, "192.168.1.2"},
	} {
		var others []netip.Addr
		for _, s := range test.others {
			others = append(others, netip.MustParseAddr(s))
		}
		if got := bestAddr(netip.MustParseAddr(test.out), others); got.String() != test.want {
			t.Errorf("%s with %v: %v, want %s", test.out, test.others, got, test.want)
		}
	}
	for _, test := range []struct {
		addrs []string
		want  string
	}{
		{[]string{"127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.7.7/16", "172.16.0.9/12", "10.0.0.1/8"}, "172.16.0.9"},
		{[]string{"127.0.0.1/8", "fd00::9/64"}, "fd00::9"},
		{[]string{"127.0.0.1/8", "::1/128", "fe80::1/64"}, "127.0.0.1"},
		{nil, "127.0.0.1"},
	} {
		var addrs []net.Addr
		for _, s := range test.addrs {
			ip, network, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			addrs = append(addrs, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		if got := anyAddr(addrs); got.String() != test.want {
			t.Errorf("%v: %v, want %s", test.addrs, got, test.want)
		}
	}
	if got := devURL(&net.TCPAddr{IP: net.IPv4(192, 168, 1, 2), Port: 8080}).String(); got != "http://192.168.1.2:8080" {
		t.Errorf("a port that is bound to an address: %s", got)
	}
}
