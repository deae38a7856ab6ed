package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// selector is one of the words that stand for nodes and addresses.
type selector struct {
	kind  kind
	name  string   // of a user or tag
	users []string // of a group, sorted
	span  span     // of an address, prefix or host
}

type kind int

const (
	anything  kind = iota + 1 // as a source, the network and its approved routes; as a destination, everything
	everybody                 // as a source, every address there is
	user                      // the nodes of a user
	group                     // the nodes of the users of a group
	tag                       // the nodes with a tag
	anyMember                 // the nodes of users
	anyTagged                 // the nodes with tags
	self                      // as a destination, the nodes of the source's own user
	theNet                    // as a destination, the Internet at exit nodes
	addresses
)

// member is a node made ready for questions.
type member struct {
	Node
	owner string // the user's name as selectors have it; empty if the node has tags
	addrs []span
	via   []span // what the node routes to: its routes, and the Internet if it is an exit node
}

func newMember(n Node) *member {
	m := &member{Node: n}
	if len(n.Tags) == 0 {
		m.owner = userName(n.User)
	}
	for _, a := range n.Addrs {
		if a.IsValid() {
			m.addrs = append(m.addrs, addrSpan(a.Unmap().WithZone("")))
		}
	}
	for _, r := range n.Routes {
		if r.IsValid() && r.Bits() > 0 {
			m.via = append(m.via, prefixSpan(r))
		}
	}
	if n.ExitNode {
		m.via = append(m.via, internet...)
	}
	return m
}

// userName is the name of a user without the sign that only tells it from the name of a host, and
// without case: users are written as people type addresses.
func userName(s string) string { return strings.ToLower(strings.TrimSuffix(s, "@")) }

// names reports whether the node itself, not its addresses, is meant.
func (s *selector) names(m *member) bool {
	switch s.kind {
	case anything, everybody:
		return true
	case user:
		return m.owner == s.name && m.owner != ""
	case group:
		_, found := slices.BinarySearch(s.users, m.owner)
		return found && m.owner != ""
	case tag:
		return slices.Contains(m.Tags, s.name)
	case anyMember, self:
		return m.owner != ""
	case anyTagged:
		return len(m.Tags) > 0
	}
	return false
}

// sends reports whether packets from the selected can come from the node: its own, or those of
// hosts behind it.
func (s *selector) sends(m *member) bool {
	if s.kind != addresses {
		return s.names(m)
	}
	common := func(other span) bool { _, ok := s.span.overlap(other); return ok }
	if slices.ContainsFunc(m.addrs, common) {
		return true
	}
	return slices.ContainsFunc(m.Routes, func(p netip.Prefix) bool { return p.Bits() > 0 && common(prefixSpan(p)) })
}

// at returns what of the selected is at the node or behind it. It does not know "*", which is
// everything.
func (s *selector) at(m *member) []span {
	switch s.kind {
	case theNet:
		if m.ExitNode {
			return internet
		}
		return nil
	case addresses:
		only := []span{s.span}
		return append(overlaps(m.addrs, only), overlaps(m.via, only)...)
	}
	if s.names(m) {
		return m.addrs
	}
	return nil
}

// touches reports whether some of the addresses, which are nobody's own, are selected.
func (s *selector) touches(spans []span) bool {
	switch s.kind {
	case anything:
		return true
	case theNet:
		return len(overlaps(internet, spans)) > 0
	case addresses:
		return len(overlaps([]span{s.span}, spans)) > 0
	}
	return false
}

// receives reports whether at returns anything.
func (s *selector) receives(m *member) bool {
	common := func(other span) bool { _, ok := s.span.overlap(other); return ok }
	switch s.kind {
	case theNet:
		return m.ExitNode
	case addresses:
		return slices.ContainsFunc(m.addrs, common) || slices.ContainsFunc(m.via, common)
	}
	return s.names(m)
}
