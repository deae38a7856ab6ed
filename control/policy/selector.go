package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// selector is a word of the policy that selects nodes or addresses.
type selector struct {
	kind  kind
	name  string   // of a user or tag
	users []string // of a group, sorted
	span  span     // of an address, prefix or host
}

type kind int

const (
	anything     kind = iota + 1 // as a source, the mesh and its approved routes; as a destination, everything
	everybody                    // as a source, every address
	user                         // the nodes of a user
	group                        // the nodes of the users of a group
	tag                          // the nodes with a tag
	anyMember                    // the nodes of users
	anyTagged                    // the nodes with tags
	self                         // as a destination, the nodes of the source's own user
	exitInternet                 // as a destination, the Internet at exit nodes
	addresses
)

// member is a node with its names and addresses in the form of selectors.
type member struct {
	Node
	owner string // the user in the form of selector.name; empty if the node has tags
	addrs []span
	via   []span // the routes of the node, and the Internet if it is an exit node
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

// userName returns the canonical form of a user: in lower case, and without a final "@", which only
// distinguishes users from hosts.
func userName(s string) string { return strings.ToLower(strings.TrimSuffix(s, "@")) }

// names reports whether s selects the node by its user or tags. Selectors of addresses name no
// node.
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

// sends reports whether packets from what s selects can come from the node: from itself, or from
// hosts behind its routes.
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

// at returns the selected addresses that are at the node or behind it. It does not handle "*" as a
// destination, which is not limited to known addresses.
func (s *selector) at(m *member) []span {
	switch s.kind {
	case exitInternet:
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

// touches reports whether s selects some of the addresses, which belong to no node.
func (s *selector) touches(spans []span) bool {
	switch s.kind {
	case anything:
		return true
	case exitInternet:
		return len(overlaps(internet, spans)) > 0
	case addresses:
		return len(overlaps([]span{s.span}, spans)) > 0
	}
	return false
}

// receives reports whether at would return any address.
func (s *selector) receives(m *member) bool {
	common := func(other span) bool { _, ok := s.span.overlap(other); return ok }
	switch s.kind {
	case exitInternet:
		return m.ExitNode
	case addresses:
		return slices.ContainsFunc(m.addrs, common) || slices.ContainsFunc(m.via, common)
	}
	return s.names(m)
}
