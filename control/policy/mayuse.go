package policy

import (
	"net/netip"
	"slices"
)

// routeUse is what the rules say about a node, a router and one of its routes.
type routeUse struct {
	allowed bool // by a rule that names no routers
	through bool // by a rule that names this router
	steered bool // a rule names routers for the whole route: others are not to be used
}

// MayUse reports whether a node has a use for a route of another: it may send something there, or
// hosts there may send it something. The other's default routes are for the Internet alone. If
// rules say via which nodes the route is to be used, others are not.
func (c *Compiled) MayUse(id, router int64, route netip.Prefix) bool {
	u := c.use(id, router, route)
	return u.through || u.allowed && !u.steered
}

// Steered reports whether a node is to use a route of another because a rule says so, even if a
// third node is elected for that route.
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

// coversAll reports whether all of the addresses, which are nobody's own, are selected.
func (s *selector) coversAll(spans []span) bool {
	return !slices.ContainsFunc(spans, func(wanted span) bool {
		if s.kind == theNet {
			return !slices.ContainsFunc(internet, func(part span) bool { return part.covers(wanted) })
		}
		return s.kind != addresses || !s.span.covers(wanted)
	})
}
