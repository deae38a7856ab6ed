package control

import (
	"maps"
	"slices"
)

// This file compares snapshots by what they share. Whoever takes only the latest of several
// snapshots misses nothing.

// PeerDiff lists how the peers of next differ from those of m, both of one stream or not: calls
// gone for those that are no longer there and changed for those that are new or other than before.
// A nil m has none.
func (m *NetMap) PeerDiff(next *NetMap, changed func(n *Node), gone func(n *Node)) {
	var old []*Node
	if m != nil {
		old = m.Peers
	}
	for _, n := range next.Peers {
		for len(old) > 0 && old[0].ID < n.ID {
			gone(old[0])
			old = old[1:]
		}
		if len(old) > 0 && old[0].ID == n.ID {
			same := old[0] == n
			old = old[1:]
			if same {
				continue
			}
		}
		changed(n)
	}
	for _, n := range old {
		gone(n)
	}
}

// Part names what of a NetMap can change, one bit each.
type Part uint

// Parts of a NetMap.
const (
	PartSelf Part = 1 << iota
	PartPeers
	PartDERP
	PartDNS // with Domain
	PartFilter
	PartUsers
	PartMessages // Health and DisplayMessages
)

// Changed tells in which parts next may differ from m, without comparing contents: what a server
// sends again counts as changed. It is cheap; a nil m differs in all parts.
func (m *NetMap) Changed(next *NetMap) (parts Part) {
	if m == nil {
		return PartSelf | PartPeers | PartDERP | PartDNS | PartFilter | PartUsers | PartMessages
	}
	for _, p := range []struct {
		part Part
		same bool
	}{
		{PartSelf, m.Self == next.Self},
		{PartPeers, sameSlice(m.Peers, next.Peers)},
		{PartDERP, m.DERPMap == next.DERPMap},
		{PartDNS, m.DNS == next.DNS && m.Domain == next.Domain},
		{PartFilter, sameSlice(m.Filter, next.Filter)},
		{PartUsers, maps.EqualFunc(m.Users, next.Users, sameProfile)},
		{PartMessages, slices.Equal(m.Health, next.Health) && maps.Equal(m.DisplayMessages, next.DisplayMessages)},
	} {
		if !p.same {
			parts |= p.part
		}
	}
	return parts
}

func sameProfile(a, b UserProfile) bool {
	return a.LoginName == b.LoginName && a.DisplayName == b.DisplayName && a.ProfilePicURL == b.ProfilePicURL &&
		slices.Equal(a.Groups, b.Groups)
}

// sameSlice reports whether a and b are the same memory.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
