package policy

import (
	"net/netip"
	"slices"
)

// routeUse is what the rules allow a node with one route of one router.
type routeUse struct {
	allowed bool // a rule without "via" allows it
	through bool // a rule with "via" allows it by this router
	steered bool // a rule with "via" covers the whole route: only the routers that it names may be used
}

// MayUse reports whether a node may use a route of a router: the node may send to it, or hosts
// behind it may send to the node. A default route counts only for the Internet. If a rule with
// "via" covers the route, only the routers that it names may be used.
func (c *Compiled) MayUse(id, router int64, route netip.Prefix) bool {
	u := c.use(id, router, route)
	return u.through || u.allowed && !u.steered
}

// Steered reports whether a rule with "via" makes a node use a route of this router, even if
// another router is the primary one for the route.
func (c *Compiled) Steered(id, router int64, route netip.Prefix) bool {
	u := c.use(id, router, route)
	return u.steered && u.through
}

func (c *Compiled) use(id, router int64, route netip.Prefix) (u routeUse) {
	index, ok := c.index[id]
	at, known := c.index[router]
	if !ok || !known || !route.IsValid() {
		return u
	}
	wanted := []span{prefixSpan(route)}
	if route.Bits() == 0 {
		wanted = overlaps(internet, wanted)
	}
	for i, r := range c.rules {
		if r.self || r.app != nil {
			continue
		}
		to := func(t target) bool { return t.who.touches(wanted) }
		whole := func(t target) bool { return t.who.coversAll(wanted) }
		switch {
		case !c.sends.has(index, i) || !slices.ContainsFunc(r.dst, to):
		case r.via == nil:
			u.allowed = true
		default:
			u.through = u.through || r.through(c.members[at])
			u.steered = u.steered || slices.ContainsFunc(r.dst, whole)
		}
		if route.Bits() > 0 && c.receives.has(index, i) && meets(c.senders[i].spans, wanted[0]) {
			u.allowed = true
		}
	}
	return u
}

// coversAll reports whether s selects all of the addresses, which belong to no node.
func (s *selector) coversAll(spans []span) bool {
	return !slices.ContainsFunc(spans, func(wanted span) bool {
		if s.kind == exitInternet {
			return !slices.ContainsFunc(internet, func(part span) bool { return part.covers(wanted) })
		}
		return s.kind != addresses || !s.span.covers(wanted)
	})
}
