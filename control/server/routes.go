package server

import (
	"net/netip"
	"slices"
	"time"

	"ginnel/internal/meshaddr"
)

func isExit(p netip.Prefix) bool { return p.Bits() == 0 }

// primaries are the routers elected for subnets that more than one node may serve (control
// specification, section 8).
type primaries map[netip.Prefix]int64

// elect returns who routes each subnet. A router keeps its office while it is online, or may be
// back any moment after a restart of the server; then the oldest that is online follows it; if none
// is, nothing changes.
func elect(nodes []*node, before primaries) primaries {
	next := make(primaries)
	online := make(map[netip.Prefix]bool)
	for _, n := range nodes { // in the order of their numbers
		for _, p := range n.served {
			if isExit(p) {
				continue
			}
			incumbent := before[p] == n.rec.ID
			_, taken := next[p]
			switch {
			case n.usable() && (incumbent || !online[p]), n.awaited && !n.expired && incumbent:
				next[p], online[p] = n.rec.ID, true
			case !online[p] && (incumbent || !taken):
				next[p] = n.rec.ID
			}
		}
	}
	return next
}

// doubled returns the routers that are online and serve a subnet that another does that is online
// too.
func redundant(nodes []*node) map[int64]bool {
	first := make(map[netip.Prefix]int64)
	both := make(map[int64]bool)
	for _, n := range nodes {
		if !n.usable() {
			continue
		}
		for _, p := range n.served {
			other, taken := first[p]
			switch {
			case isExit(p):
			case taken:
				both[other], both[n.rec.ID] = true, true
			default:
				first[p] = n.rec.ID
			}
		}
	}
	return both
}

// of returns the subnets that a node is elected for.
func (p primaries) of(n *node) []netip.Prefix {
	var list []netip.Prefix
	for _, r := range n.served {
		if p[r] == n.rec.ID && !isExit(r) {
			list = append(list, r)
		}
	}
	return list
}

// takesNodes reports whether a route would take addresses of this network's nodes, which no
// approval allows.
func (st *state) coversNodes(route netip.Prefix) bool {
	if isExit(route) {
		return false
	}
	if meshaddr.TakenBy(route) {
		return true
	}
	for _, pool := range st.pools {
		// TakenBy has judged the usual ranges, and knows of what in them is no node's.
		if !meshaddr.TakenBy(pool) && route.Overlaps(pool) {
			return true
		}
	}
	for a := range st.byAddr { // of a pool that the server had before
		if route.Contains(a) {
			return true
		}
	}
	return false
}

// servedBy returns what of the routes that a node advertises is approved.
func (st *state) servedBy(rec *nodeRecord) []netip.Prefix {
	if rec.Hostinfo == nil {
		return nil
	}
	var list []netip.Prefix
	for _, p := range rec.Hostinfo.RoutableIPs {
		approved := slices.Contains(rec.Approved, p) || st.approves(rec, p)
		if approved && !slices.Contains(list, p) && !st.coversNodes(p) {
			list = append(list, p)
		}
	}
	return list
}

// primariesOf returns who was elected when the records were stored.
func primariesOf(nodes map[int64]*node) primaries {
	p := make(primaries)
	for _, n := range nodes {
		for _, r := range n.rec.Primary {
			p[r] = max(p[r], n.rec.ID) // of two, whoever: they are not stored at once
		}
	}
	return p
}

// keepElection stores what a node is elected for, so that a restart makes no difference.
func (c *core) storeElection(t *tx, id int64) {
	if n := t.nodes[id]; n != nil && !slices.Equal(n.primary, n.rec.Primary) {
		rec := *n.rec
		rec.Primary = n.primary
		t.putNode(&rec)
	}
	t.after = append(t.after, func() { c.timers.elections.set(id, time.Time{}) })
}
