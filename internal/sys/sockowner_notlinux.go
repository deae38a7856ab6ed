//go:build !linux

package sys

import "net/netip"

func connOwner(netip.AddrPort, netip.AddrPort) (int, bool) { return 0, false }
