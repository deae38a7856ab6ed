// Package policy parses the policy file and compiles it to what the coordination server needs: the
// packet filter of each node, which nodes see each other, who may use a tag, and which routes are
// approved automatically.
//
// The file is HuJSON, JSON with comments and trailing commas, in the format of headscale and
// Tailscale. Its rules mean here:
//
//   - Without a file, which is a nil *Policy, every node may reach every other, nobody may request
//     a tag, and no route is approved automatically.
//   - With a file, only what acls and grants allow is allowed. A file with neither of them allows
//     nothing, and a warning says so.
//   - A user is written "alice@" or as an address, "alice@example.com". In groups, owners and
//     approvers "alice" is enough, because only users, groups and tags can stand there. Users are
//     compared without regard to case. A node with tags belongs to its tags, not to its user.
//   - "*" as a source means the addresses of the mesh and its approved routes;
//     autogroup:danger-all means every address.
//   - "*" as a destination means everything, including what is behind subnet routers and exit
//     nodes.
//   - An address or prefix as a destination applies at every node that has the address or routes to
//     it, and at every exit node if the address is on the Internet.
//   - autogroup:internet is the Internet at exit nodes. autogroup:self is the nodes of the source's
//     own user.
//   - Grants of application capabilities are passed to the nodes unchanged, and make both ends see
//     each other. For those of peer relays and file sharing, the other end gets a grant in the
//     reverse direction (companion.go).
//   - Attributes (nodeAttrs) are passed to the nodes unchanged.
//   - "via" restricts the sources of a grant to routers with certain tags. If several such routers
//     serve one subnet, a node is told of all of them.
//
// A key that this package cannot enforce is never ignored silently. If the key would only have
// allowed more (ssh, postures), it is left out with a warning. If it would have narrowed a rule
// (srcPosture), the file is refused. Entries that are certainly mistakes are refused too, except in
// a policy that is already in force (ParseInForce).
//
// The package has no state, starts no goroutines and takes no locks. Policy and Compiled are
// immutable.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ginnel/control"
)

// Policy is a parsed policy file.
type Policy struct {
	groups map[string][]string // users, by name with "group:"
	hosts  map[string]span
	sets   map[string][]span     // of addresses, by name with "ipset:"
	owners map[string][]selector // by tag
	exits  []selector            // whose exit nodes are approved automatically
	routes map[span][]selector   // whose routes within the span are approved automatically
	rules  []*rule
	attrs  []attributes
	tests  []test
	warned Problems

	explained []*explanation
	users     []text // every user that the file names, at its first place
	place     func(pos int, text string) Problem
}

// rule allows all of its sources some services of some destinations. An entry of the file becomes
// one rule or several.
type rule struct {
	src    *sources // shared by the rules of an entry
	dst    []target
	protos []int          // nil: TCP, UDP and ICMP of both families
	self   bool           // the destinations are the nodes of the source's own user; dst has one target
	app    control.CapMap // not nil: the rule grants capabilities instead, and its targets have no ports
	via    []string       // not nil: only behind nodes with one of these tags
}

// sources are the "src" of an entry.
type sources struct{ who []selector }

// target is a destination with its ports.
type target struct {
	who   selector
	ports []control.PortRange
}

// Node is the part of a node that a policy depends on.
type Node struct {
	ID       int64
	User     string
	Tags     []string
	Addrs    []netip.Addr
	Routes   []netip.Prefix // the approved ones, without default routes
	ExitNode bool           // it is approved as an exit node
}

var allPorts = []control.PortRange{{First: 0, Last: 65535}}

// allowAll replaces a nil *Policy.
var allowAll = &Policy{rules: []*rule{{
	src: &sources{[]selector{{kind: everybody}}},
	dst: []target{{selector{kind: anything}, allPorts}},
}}}

// Warnings lists entries of the file that have no effect or are probably mistakes.
func (p *Policy) Warnings() []Problem {
	if p == nil {
		return nil
	}
	return p.warned
}

// UnknownUsers lists the users in the file for which known returns false.
func (p *Policy) UnknownUsers(known func(name string) bool) []Problem {
	if p == nil {
		return nil
	}
	var unknown []Problem
	for _, u := range p.users {
		if !known(userName(u.string)) {
			unknown = append(unknown, p.place(u.pos, fmt.Sprintf("there is no user %q", u.string)))
		}
	}
	return unknown
}

// HasTests reports whether the file has tests for Check to run.
func (p *Policy) HasTests() bool { return p != nil && len(p.tests) > 0 }

// TagAllowed reports whether a user may give a node the tag. user may also be a tag; then the
// answer is for a node with that tag.
func (p *Policy) TagAllowed(user, tag string) bool {
	if p == nil {
		return false
	}
	asker := Node{User: user}
	if strings.HasPrefix(user, "tag:") {
		asker = Node{Tags: []string{user}}
	}
	return selects(p.owners[tag], newMember(asker))
}

// TagOwned reports whether the policy lists the tag in tagOwners, perhaps with no owners. Without a
// policy it returns true for every tag.
func (p *Policy) TagOwned(tag string) bool {
	if p == nil {
		return true
	}
	_, ok := p.owners[tag]
	return ok
}

// Approves reports whether a route that n advertises is approved automatically. A default route
// makes n an exit node, so the approvers of exit nodes count for it and not those of routes.
func (p *Policy) Approves(n Node, route netip.Prefix) bool {
	if p == nil || !route.IsValid() {
		return false
	}
	m := newMember(n)
	if route.Bits() == 0 {
		return selects(p.exits, m)
	}
	wanted := prefixSpan(route)
	for wider, approvers := range p.routes {
		if wider.covers(wanted) && selects(approvers, m) {
			return true
		}
	}
	return false
}

// selects reports whether one of the selectors names the node.
func selects(selectors []selector, m *member) bool {
	return slices.ContainsFunc(selectors, func(s selector) bool { return s.names(m) })
}
