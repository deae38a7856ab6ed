// Package policy reads the policy file and makes of it what the coordination server needs to know:
// which node gets which packet filter, who sees whom, who may have a tag, and which routes need no
// hand to approve them.
//
// The file is HuJSON, JSON with comments and trailing commas, in the format that the users of
// headscale and Tailscale know. What is said there:
//
//   - Without a file, which is a nil *Policy, every node may reach every other, nobody may ask for a tag, and no route
//     approves itself.
//   - With a file nothing is allowed but what acls and grants allow. A file with neither of them allows nothing, and a
//     warning says so.
//   - A user is written "alice@" or as an address, "alice@example.com". In groups, owners and approvers, where nothing
//     else can stand, "alice" will do. A node with tags belongs to its tags and not to its user.
//   - "*" as a source is the addresses of the network and its approved routes; autogroup:danger-all is every address
//     there is. "*" as a destination is everything, also what is behind subnet routers and exit nodes. An address or a
//     prefix as a destination is at every node that has it, routes to it, or is an exit node if it is on the Internet.
//     autogroup:internet is the Internet at exit nodes; autogroup:self are the nodes of the source's own user.
//   - Users are compared without regard to case.
//   - Grants of applications are passed on to the nodes as they are, and have both ends see each other. Of those for
//     relays and shared files, the other end is told too (companion.go).
//   - Attributes of nodes are passed on to them as they are.
//   - "via" leads the sources of a grant through routers with a tag and no others. If several of these serve one subnet,
//     a node is told of all of them.
//
// What this package cannot enforce is never taken lightly. A key that only would have given more
// (ssh, postures) is left out with a warning; one that would have narrowed a rule (srcPosture) is
// refused. So is an entry that nobody means as it is written, except in a policy that is in force
// already (ParseInForce).
//
// The package is pure: it has no state, starts no goroutines, and takes no locks. Policy and
// Compiled do not change.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ginnel/control"
)

// Policy is a policy file that was read without a problem.
type Policy struct {
	groups map[string][]string // users, by name with "group:"
	hosts  map[string]span
	sets   map[string][]span     // of addresses, by name with "ipset:"
	owners map[string][]selector // by tag
	exits  []selector            // who approves exit nodes
	routes map[span][]selector   // who approves routes within
	rules  []*rule
	attrs  []attributes
	tests  []test
	warned Problems

	explained []*explanation
	users     []text // who is named, at the first place of each
	place     func(pos int, text string) Problem
}

// rule allows sources, all of them, some services of some destinations. An entry of the file
// becomes one or several.
type rule struct {
	src    *sources // shared by the rules of an entry
	dst    []target
	protos []int          // nil: TCP, UDP and the ICMP of both families
	self   bool           // the destinations are the nodes of the source's own user; dst has one target
	app    control.CapMap // not passage but capabilities; the targets have no ports
	via    []string       // not nil: only behind nodes with one of these tags
}

// sources are who one entry of the file speaks of.
type sources struct{ who []selector }

// target is a destination with its ports.
type target struct {
	who   selector
	ports []control.PortRange
}

// Node is what a policy looks at in a node.
type Node struct {
	ID       int64
	User     string
	Tags     []string
	Addrs    []netip.Addr
	Routes   []netip.Prefix // those that are approved, without default routes
	ExitNode bool           // approved
}

var allPorts = []control.PortRange{{First: 0, Last: 65535}}

// allowAll is what holds without a policy.
var allowAll = &Policy{rules: []*rule{{
	src: &sources{[]selector{{kind: everybody}}},
	dst: []target{{selector{kind: anything}, allPorts}},
}}}

// Warnings say what in the file has no effect.
func (p *Policy) Warnings() []Problem {
	if p == nil {
		return nil
	}
	return p.warned
}

// UnknownUsers says which users the file names that nobody is, as far as known tells.
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

// HasTests reports whether Check has anything to run.
func (p *Policy) HasTests() bool { return p != nil && len(p.tests) > 0 }

// TagAllowed reports whether a user, or a node that has the tag that is given in the place of the
// user, may give a node the tag.
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

// TagOwned reports whether the policy says who owns a tag, be it nobody. Without a policy tags need
// no owner.
func (p *Policy) TagOwned(tag string) bool {
	if p == nil {
		return true
	}
	_, ok := p.owners[tag]
	return ok
}

// Approves reports whether a route that n advertises needs no other approval. Default routes make
// an exit node; they are approved as such and not as a part of something wider.
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

// selects reports whether one of the selectors is for the node as an owner or approver.
func selects(selectors []selector, m *member) bool {
	return slices.ContainsFunc(selectors, func(s selector) bool { return s.names(m) })
}
