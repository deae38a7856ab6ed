package server

import (
	"net/netip"
	"slices"
	"time"

	"ginnel/internal/meshaddr"
)

func isExit(p netip.Prefix) bool { return p.Bits() == 0 }

// primaries are the elected router of each subnet (control specification, section 8).
type primaries map[netip.Prefix]int64

// elect returns the router of each subnet. A router stays elected while it is online or expected
// back after a restart of the server. Otherwise the oldest online router is elected. If none is
// online, nothing changes.
func elect(nodes []*node, before primaries) primaries {
	next := make(primaries)
	online := make(map[netip.Prefix]bool)
	for _, n := range nodes { // ordered by ID
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

// redundant returns the online routers that share a subnet with another online router.
func redundant(nodes []*node) map[int64]bool {
	first := make(map[netip.Prefix]int64)
	shared := make(map[int64]bool)
	for _, n := range nodes {
		if !n.usable() {
			continue
		}
		for _, p := range n.served {
			other, taken := first[p]
			switch {
			case isExit(p):
			case taken:
				shared[other], shared[n.rec.ID] = true, true
			default:
				first[p] = n.rec.ID
			}
		}
	}
	return shared
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

// coversNodes reports whether a route contains addresses of this network's nodes. Such a route is
// never served, even if it is approved.
func (st *state) coversNodes(route netip.Prefix) bool {
	if isExit(route) {
		return false
	}
	if meshaddr.TakenBy(route) {
		return true
	}
	for _, pool := range st.pools {
		// The usual ranges were checked above. TakenBy also knows which of their addresses no node
		// can have.
		if !meshaddr.TakenBy(pool) && route.Overlaps(pool) {
			return true
		}
	}
	for a := range st.byAddr { // node addresses from a range that was configured before
		if route.Contains(a) {
			return true
		}
	}
	return false
}

// servedBy returns the advertised routes of a node that are approved.
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

// primariesOf returns the elections that are stored in the records.
func primariesOf(nodes map[int64]*node) primaries {
	p := make(primaries)
	for _, n := range nodes {
		for _, r := range n.rec.Primary {
			// Two records may name a subnet, because they are not stored in one transaction.
			p[r] = max(p[r], n.rec.ID)
		}
	}
	return p
}

// storeElection stores what a node is elected for, so that the election survives a restart.
func (c *core) storeElection(t *tx, id int64) {
	if n := t.nodes[id]; n != nil && !slices.Equal(n.primary, n.rec.Primary) {
		rec := *n.rec
		rec.Primary = n.primary
		t.putNode(&rec)
	}
	t.after = append(t.after, func() { c.timers.elections.set(id, time.Time{}) })
}
