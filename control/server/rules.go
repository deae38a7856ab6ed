package server

import (
	"maps"
	"net/netip"
	"slices"

	"ginnel/control"
	"ginnel/control/policy"
)

// rules are a policy applied to the current nodes. They are never modified: a change of the policy
// or of a node that matters to it makes new rules. Equal pointers therefore mean equal rules.
type rules struct {
	compiled *policy.Compiled // nil: there is no policy, and everything is allowed
	// generation changes with the policy. Within a generation, two nodes that have not changed keep
	// seeing, or not seeing, each other.
	generation uint64
}

var allowAll = control.Rules{{
	SrcIPs:   []string{"*"},
	DstPorts: []control.NetPortRange{{IP: "*", Ports: control.PortRange{First: 0, Last: 65535}}},
}}

// allowsAll reports whether there is no policy, so that all nodes see each other.
func (r *rules) allowsAll() bool { return r.compiled == nil }

// sees reports whether node id is shown node other: the policy allows traffic between them in at
// least one direction.
func (r *rules) sees(id, other int64) bool {
	return r.compiled == nil || r.compiled.MaySee(id, other)
}

// peer returns a node as node id sees it: with those of its routes that the policy allows id to
// use. The result must not be modified.
func (r *rules) peer(id int64, n *node) *control.Node {
	if r.usesAll(id, n) {
		return n.peer()
	}
	v := *n.peer()
	v.PrimaryRoutes = nil
	for _, p := range n.primary {
		if r.compiled.MayUse(id, n.rec.ID, p) {
			v.PrimaryRoutes = append(v.PrimaryRoutes, p)
		}
	}
	v.PrimaryRoutes = append(v.PrimaryRoutes, r.steered(id, n)...)
	v.AllowedIPs = slices.Concat(v.Addresses, v.PrimaryRoutes)
	if n.exitNode() && r.usesExit(id, n.rec.ID) {
		v.AllowedIPs = append(v.AllowedIPs, exitRoutes...)
	}
	return &v
}

// self returns a node as it sees itself: with the attributes that the policy gives it. The result
// must not be modified.
func (r *rules) self(n *node) *control.Node {
	v := *n.peer()
	v.CapMap = r.attributes(n.rec.ID)
	return &v
}

// defaultAttributes are the attributes that every node has. File sharing (Taildrop) works between
// the nodes of a user, and between nodes that the policy grants it to.
var defaultAttributes = control.CapMap{"https://tailscale.com/cap/file-sharing": nil}

func (r *rules) attributes(id int64) control.CapMap {
	if r.compiled == nil {
		return defaultAttributes
	}
	given := r.compiled.Attributes(id)
	if len(given) == 0 {
		return defaultAttributes
	}
	all := maps.Clone(given)
	maps.Copy(all, defaultAttributes)
	return all
}

// usesAll reports whether node id may use all routes of node n, so that it sees n as it would
// without a policy. The answer does not change as long as both nodes and the policy stay the same.
func (r *rules) usesAll(id int64, n *node) bool {
	if r.compiled == nil {
		return true
	}
	unused := func(p netip.Prefix) bool { return !r.compiled.MayUse(id, n.rec.ID, p) }
	return !slices.ContainsFunc(n.primary, unused) && (!n.exitNode() || r.usesExit(id, n.rec.ID)) &&
		len(r.steered(id, n)) == 0
}

// steered returns the routes for which the policy sends node id through router n although another
// router is elected. If the policy names several equally good routers, id is shown the routes of
// all of them, whether they are online or not: going online is sent as a patch, and a patch has no
// routes.
func (r *rules) steered(id int64, n *node) []netip.Prefix {
	var routes []netip.Prefix
	for _, p := range n.served {
		if !isExit(p) && !slices.Contains(n.primary, p) && r.compiled.Steered(id, n.rec.ID, p) {
			routes = append(routes, p)
		}
	}
	return routes
}

// usesExit reports whether node id may use a router as an exit node. One address family suffices,
// because exit routes are always sent as a pair.
func (r *rules) usesExit(id, router int64) bool {
	return r.compiled.MayUse(id, router, exitRoutes[0]) || r.compiled.MayUse(id, router, exitRoutes[1])
}

// filter returns the packet filter of a node. It is never nil.
func (r *rules) filter(id int64) control.Rules {
	if r.compiled == nil {
		return allowAll
	}
	return r.compiled.Rules(id)
}

// filterSum identifies a packet filter without building it.
type filterSum struct {
	allowAll bool
	sum      policy.Sum
}

func (r *rules) filterSum(id int64) filterSum {
	if r.compiled == nil {
		return filterSum{allowAll: true}
	}
	return filterSum{sum: r.compiled.Sum(id)}
}

// policyNode returns what the policy needs to know about a node.
func (st *state) policyNode(n *node) policy.Node {
	p := policy.Node{
		ID: n.rec.ID, Tags: n.rec.Tags, Addrs: n.rec.addrs(), Routes: subnets(n.served), ExitNode: n.exitNode(),
	}
	if u := st.users[n.rec.User]; u != nil && !n.tagged() {
		p.User = u.Name
	}
	return p
}

func subnets(routes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(routes), isExit)
}

// samePolicyNode reports whether the policy treats two states of a node alike.
func samePolicyNode(a, b policy.Node) bool {
	return a.ID == b.ID && a.User == b.User && a.ExitNode == b.ExitNode && slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Routes, b.Routes)
}

// approves reports whether the policy's autoApprovers approve a route of a node.
func (st *state) approves(rec *nodeRecord, p netip.Prefix) bool {
	if st.policy == nil {
		return false
	}
	bare := policy.Node{ID: rec.ID, Tags: rec.Tags, Addrs: rec.addrs()}
	if u := st.users[rec.User]; u != nil && len(rec.Tags) == 0 {
		bare.User = u.Name
	}
	return st.policy.Approves(bare, p)
}

// compile applies the policy to all nodes.
func (st *state) compile(generation uint64) *rules {
	if st.policy == nil {
		return &rules{generation: generation}
	}
	return &rules{compiled: st.policy.Compile(st.policyNodes()), generation: generation}
}

func (st *state) policyNodes() []policy.Node {
	list := make([]policy.Node, 0, len(st.nodes))
	for _, n := range st.nodes {
		list = append(list, st.policyNode(n))
	}
	slices.SortFunc(list, func(a, b policy.Node) int { return int(a.ID - b.ID) })
	return list
}
