package server

import (
	"maps"
	"net/netip"
	"slices"

	"ginnel/control"
	"ginnel/control/policy"
)

// rules are a policy applied to the nodes there are. A change of either makes other rules, so that
// whoever holds two can tell by their pointers whether anything may have changed.
type rules struct {
	compiled *policy.Compiled // nil: without a policy everybody may do everything
	// generation is the same as long as only nodes have come, gone and changed: two that have not see
	// each other as before.
	generation uint64
}

var allowAll = control.Rules{{
	SrcIPs:   []string{"*"},
	DstPorts: []control.NetPortRange{{IP: "*", Ports: control.PortRange{First: 0, Last: 65535}}},
}}

// open reports whether everybody sees everybody.
func (r *rules) allowAll() bool { return r.compiled == nil }

// sees reports whether a node is shown another: only those are shown that may be talked to, or may
// talk to it.
func (r *rules) sees(id, other int64) bool {
	return r.compiled == nil || r.compiled.MaySee(id, other)
}

// peer returns a node as another sees it: with those of its routes that the policy gives the other
// a use for. It must not be changed.
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

// self returns a node as it sees itself: with the attributes that the policy gives it. It must not
// be changed.
func (r *rules) self(n *node) *control.Node {
	v := *n.peer()
	v.CapMap = r.attributes(n.rec.ID)
	return &v
}

// forAll are the attributes that all nodes have. With file sharing (Taildrop) the programs of a
// user, or those whose policy grants it, may send files to each other.
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

// usesAll reports whether a node has a use for all routes of another, so that it sees it as
// everybody would without a policy. As long as neither changes, nor the policy, the answer stays.
func (r *rules) usesAll(id int64, n *node) bool {
	if r.compiled == nil {
		return true
	}
	unused := func(p netip.Prefix) bool { return !r.compiled.MayUse(id, n.rec.ID, p) }
	return !slices.ContainsFunc(n.primary, unused) && (!n.exitNode() || r.usesExit(id, n.rec.ID)) && len(r.steered(id, n)) == 0
}

// steered returns routes that a node is to use by this router because the policy says so, though
// another is elected for them. If routers that the policy names are equally good, the node is shown
// all of them, whether they are there or not: a change of that is told by a patch, which has no
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

// usesExit reports whether a node may reach the Internet by others: both families are of use only
// together.
func (r *rules) usesExit(id, router int64) bool {
	return r.compiled.MayUse(id, router, exitRoutes[0]) || r.compiled.MayUse(id, router, exitRoutes[1])
}

// filter returns what a node lets in. It is never nil.
func (r *rules) filter(id int64) control.Rules {
	if r.compiled == nil {
		return allowAll
	}
	return r.compiled.Rules(id)
}

// filterSum tells filters apart without making them.
type filterSum struct {
	open bool
	sum  policy.Sum
}

func (r *rules) filterSum(id int64) filterSum {
	if r.compiled == nil {
		return filterSum{open: true}
	}
	return filterSum{sum: r.compiled.Sum(id)}
}

// policyNode is what a policy knows of a node.
func (st *state) policyNode(n *node) policy.Node {
	p := policy.Node{ID: n.rec.ID, Tags: n.rec.Tags, Addrs: n.rec.addrs(), Routes: subnets(n.served), ExitNode: n.exitNode()}
	if u := st.users[n.rec.User]; u != nil && !n.tagged() {
		p.User = u.Name
	}
	return p
}

func subnets(routes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(routes), isExit)
}

// samePolicyNode reports whether a policy makes no difference between two states of a node.
func samePolicyNode(a, b policy.Node) bool {
	return a.ID == b.ID && a.User == b.User && a.ExitNode == b.ExitNode && slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Routes, b.Routes)
}

// approves reports whether the policy approves a route by itself.
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
