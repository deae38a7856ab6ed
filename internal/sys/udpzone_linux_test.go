//go:build linux && !ginnel_stdnet

package sys

import (
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A link-local address is one of an interface, which comes with the address and goes with it, by
// name and, where that is gone, by number.
func TestZones(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) == 0 {
		t.Fatal("no interface:", err)
	}
	const gone = 1 << 30
	zones := map[string]uint32{"": 0, strconv.Itoa(gone): gone}
	for _, i := range interfaces {
		zones[i.Name] = uint32(i.Index)
	}
	s := new(osSocket)
	for name, id := range zones {
		want := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(name), 7)
		tr := newTransmitter(s)
		tr.setName(want)
		if tr.name.Scope_id != id {
			t.Errorf("to %v: scope %d, want %d", want, tr.name.Scope_id, id)
		}
		from := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: tr.name.Port, Addr: want.Addr().As16(), Scope_id: id}
		for range 2 { // the second time it is remembered
			if got := s.addrPortOf(&from); got != want {
				t.Errorf("from scope %d: %v, want %v", id, got, want)
			}
		}
	}
}
