package server

import (
	"errors"
	"net/netip"
	"testing"

	"ginnel/internal/meshaddr"
)

func TestAllocate(t *testing.T) {
	plan, err := newAddressPlan(meshaddr.Ranges())
	if err != nil {
		t.Fatal(err)
	}
	taken := map[netip.Addr]bool{}
	isTaken := func(a netip.Addr) bool { return taken[a] }
	v4, v6, cursor, err := plan.next(0, isTaken)
	if v4.String() != "100.64.0.1" || v6.String() != "fd7a:115c:a1e0::1" || cursor != 1 || err != nil {
		t.Errorf("first: %s %s at %d, %v", v4, v6, cursor, err)
	}
	taken[netip.MustParseAddr("100.64.0.2")] = true
	taken[netip.MustParseAddr("fd7a:115c:a1e0::3")] = true
	if v4, v6, _, _ := plan.next(cursor, isTaken); v4.String() != "100.64.0.4" || v6.String() != "fd7a:115c:a1e0::4" {
		t.Errorf("after taken addresses: %s %s", v4, v6)
	}
	for _, reserved := range []string{"100.100.100.100", "100.115.92.0", "100.115.93.255"} {
		a := netip.MustParseAddr(reserved)
		n := uint64(a.As4()[1]-64)<<16 | uint64(a.As4()[2])<<8 | uint64(a.As4()[3])
		if v4, _, _, _ := plan.next(n-1, isTaken); v4 == a {
			t.Errorf("the reserved address %s was assigned", a)
		}
	}
	if _, v6, _, _ := plan.next(0x52, isTaken); v6.String() != "fd7a:115c:a1e0::54" {
		t.Errorf("after ::52 comes %s", v6)
	}
	if v4, _, cursor, _ := plan.next(1<<22-2, isTaken); v4.String() != "100.64.0.1" || cursor != 1 {
		t.Errorf("at the end of the range: %s at %d, want its start", v4, cursor)
	}
}

func TestAllocateUntilFull(t *testing.T) {
	plan, err := newAddressPlan(netip.MustParsePrefix("192.0.2.0/29"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	taken := map[netip.Addr]bool{}
	cursor := uint64(0)
	for range 6 {
		v4, v6, next, err := plan.next(cursor, func(a netip.Addr) bool { return taken[a] })
		if err != nil || taken[v4] || v6.IsValid() {
			t.Fatalf("%s, %s, %v after %v", v4, v6, err, taken)
		}
		taken[v4], cursor = true, next
	}
	if _, _, _, err := plan.next(cursor, func(a netip.Addr) bool { return taken[a] }); !errors.Is(err, errNoAddress) {
		t.Errorf("full: got %v", err)
	}
}

func TestAddressPlanRefuses(t *testing.T) {
	for _, p := range [][2]string{{"fd00::/64", ""}, {"10.0.0.0/31", ""}, {"", "10.0.0.0/8"}} {
		v4, _ := netip.ParsePrefix(p[0])
		v6, _ := netip.ParsePrefix(p[1])
		if _, err := newAddressPlan(v4, v6); err == nil {
			t.Errorf("%v: not refused", p)
		}
	}
}
