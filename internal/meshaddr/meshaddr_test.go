package meshaddr

import (
	"net/netip"
	"testing"
)

func TestTakenBy(t *testing.T) {
	for text, want := range map[string]bool{
		"100.64.0.7/32": true, "100.64.0.0/10": true, "100.0.0.0/8": true, "0.0.0.0/1": true, "100.127.255.0/24": true,
		"fd7a:115c:a1e0::7/128": true, "fd7a:115c:a1e0::/48": true, "fd00::/8": true, "fd7a:115c:a1e0:b1a::/63": true,
		"0.0.0.0/0": false, "::/0": false, "10.0.0.0/8": false, "100.128.0.0/16": false, "100.63.0.0/16": false,
		"fd7a:115c:a1e0:b1a:0:7:a01:100/120": false, "fd7a:115c:a1e1::/48": false,
	} {
		if got := TakenBy(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestContains(t *testing.T) {
	for text, want := range map[string]bool{
		"100.64.0.1": true, "100.127.255.254": true, "fd7a:115c:a1e0::1": true,
		"100.115.92.5": false, "100.128.0.1": false, "100.63.255.255": false, "10.0.0.1": false, "fd7a:115c:a1e1::1": false,
	} {
		if got := Contains(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestIsReserved(t *testing.T) {
	for text, want := range map[string]bool{
		"100.100.100.100": true, "100.115.92.0": true, "100.115.93.255": true, "fd7a:115c:a1e0::53": true,
		"100.64.0.1": false, "100.115.94.0": false, "100.100.100.101": false, "fd7a:115c:a1e0::54": false,
	} {
		if got := IsReserved(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
