package policy

import (
	"iter"
	"net/netip"
	"slices"
)

// index finds the members that a selector may select without testing all of them, so that many
// rules for few nodes each stay cheap.
type index struct {
	all     int // number of members
	byOwner map[string][]int
	byTag   map[string][]int
	byAddr  map[netip.Addr][]int
	owned   []int
	tagged  []int
	routers []int // members with routes, and exit nodes
	exits   []int
}

func newIndex(members []*member) *index {
	x := &index{
		all:     len(members),
		byOwner: make(map[string][]int),
		byTag:   make(map[string][]int),
		byAddr:  make(map[netip.Addr][]int, 2*len(members)),
	}
	for i, m := range members {
		if m.owner != "" {
			x.byOwner[m.owner] = append(x.byOwner[m.owner], i)
			x.owned = append(x.owned, i)
		}
		for _, tag := range m.Tags {
			x.byTag[tag] = append(x.byTag[tag], i)
		}
		if len(m.Tags) > 0 {
			x.tagged = append(x.tagged, i)
		}
		for _, a := range m.addrs {
			x.byAddr[a.first] = append(x.byAddr[a.first], i)
		}
		if len(m.via) > 0 {
			x.routers = append(x.routers, i)
		}
		if m.ExitNode {
			x.exits = append(x.exits, i)
		}
	}
	return x
}

// candidates yields a superset of the members that s selects as a source or as a destination, some
// of them twice.
func (x *index) candidates(s *selector) iter.Seq[int] {
	switch s.kind {
	case user:
		return slices.Values(x.byOwner[s.name])
	case group:
		return func(yield func(int) bool) {
			for _, name := range s.users {
				for _, i := range x.byOwner[name] {
					if !yield(i) {
						return
					}
				}
			}
		}
	case tag:
		return slices.Values(x.byTag[s.name])
	case anyMember, self:
		return slices.Values(x.owned)
	case anyTagged:
		return slices.Values(x.tagged)
	case exitInternet:
		return slices.Values(x.exits)
	case addresses:
		if s.span.first == s.span.last {
			return slices.Values(slices.Concat(x.byAddr[s.span.first], x.routers))
		}
	}
	return func(yield func(int) bool) {
		for i := range x.all {
			if !yield(i) {
				return
			}
		}
	}
}
