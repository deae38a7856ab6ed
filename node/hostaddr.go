package node

import (
	"net"
	"net/netip"
	"slices"
)

// hostPrefixes returns the addresses of this machine's interfaces, each with its network's length.
func hostPrefixes() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}

// isHostAddr reports whether an interface of this machine has the address.
func isHostAddr(a netip.Addr) bool {
	prefixes, _ := hostPrefixes()
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Unmap() == a.Unmap() })
}

// isOnLink reports whether a is in the network of an interface of this machine. If the interfaces
// cannot be listed, every address counts as on link.
func isOnLink(a netip.Addr) bool {
	prefixes, err := hostPrefixes()
	return err != nil || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}
