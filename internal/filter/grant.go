package filter

import (
	"net/netip"
	"slices"

	"ginnel/control"
)

// grant gives capabilities of applications. It is looked up when an application asks, not for
// packets.
type grant struct {
	src          spanSet
	capabilities []string // of sources that are named by attribute
	control.CapGrant
}

// add adds to granted what the grant gives src at dst, and returns it.
func (g *grant) add(granted control.CapMap, src, dst netip.Addr, has func(netip.Addr, string) bool) control.CapMap {
	if !slices.ContainsFunc(g.Dsts, func(p netip.Prefix) bool { return p.Contains(dst) }) {
		return granted
	}
	if !g.src.containsAddr(src) && !slices.ContainsFunc(g.capabilities, func(c string) bool { return has(src, c) }) {
		return granted
	}
	if granted == nil {
		granted = make(control.CapMap)
	}
	for capability, values := range g.CapMap {
		granted[capability] = append(granted[capability], values...)
	}
	for _, capability := range g.Caps {
		granted[capability] = append(granted[capability], nil...) // there, if without a value
	}
	return granted
}
