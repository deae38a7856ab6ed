package transport

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"ginnel/internal/meshaddr"
)

// maxPerSubnet6 is how many addresses of one IPv6 subnet are offered, because privacy extensions
// give a host many.
const maxPerSubnet6 = 2

var uniqueLocal = netip.MustParsePrefix("fc00::/7")

// offered picks the interface addresses that peers may try (disco specification, section 4.1). It
// returns regular addresses if there are any, otherwise those that may work (link-local IPv4,
// unique local IPv6), otherwise loopback, which serves hosts without a network.
func offered(addrs []netip.Addr) []netip.Addr {
	var regular, reserve, loopback []netip.Addr
	subnets := make(map[netip.Prefix]int)
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast():
		case meshaddr.Contains(a): // a path must not lead through a mesh
		case a.IsLoopback():
			loopback = append(loopback, a)
		case a.Is4() && a.IsLinkLocalUnicast(), uniqueLocal.Contains(a):
			reserve = append(reserve, a)
		case a.IsLinkLocalUnicast():
		case a.Is6():
			subnet := netip.PrefixFrom(a, 64).Masked()
			if subnets[subnet]++; subnets[subnet] <= maxPerSubnet6 {
				regular = append(regular, a)
			}
		default:
			regular = append(regular, a)
		}
	}
	switch {
	case len(regular) > 0:
		return regular
	case len(reserve) > 0:
		return reserve
	}
	return loopback
}

// systemAddrs lists the addresses of interfaces that are up, except those of other tunnels.
func systemAddrs() ([]netip.Addr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || strings.HasPrefix(i.Name, "zt") || strings.HasPrefix(i.Name, "wt0") {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					all = append(all, ip.Unmap())
				}
			}
		}
	}
	return all, nil
}

// ownEndpoints returns the endpoints that peers are told: the addresses that STUN servers saw, then
// those of the interfaces (disco specification, section 4.5).
func ownEndpoints(r stunReport, local []netip.Addr, port4, port6 uint16) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(ap netip.AddrPort) {
		if ap.IsValid() && ap.Port() != 0 && !slices.Contains(out, ap) {
			out = append(out, ap)
		}
	}
	add(r.global4)
	add(r.global6)
	for _, a := range local {
		if a.Is4() {
			add(netip.AddrPortFrom(a, port4))
		} else {
			add(netip.AddrPortFrom(a, port6))
		}
	}
	return out
}
