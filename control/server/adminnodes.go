package server

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// changeNode changes the record of a node.
func (s *Server) changeNode(
	ctx context.Context, id int64, change func(t *tx, rec *nodeRecord) error,
) (changed Node, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		n := t.nodes[id]
		if n == nil {
			return notFound("there is no node with the number %d", id)
		}
		rec := *n.rec
		if err := change(t, &rec); err != nil {
			return err
		}
		t.putNode(&rec)
		changed = t.apiNode(t.nodes[id])
		return nil
	})
	return changed, err
}

// nodeFilter selects the nodes of a list; empty fields select all.
type nodeFilter struct{ user, name string }

func (s *Server) listNodes(ctx context.Context, f nodeFilter, w pageRequest) (p Page[Node], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		owner := int64(0)
		switch {
		case foldName(f.user) == taggedUser.Name:
			owner = taggedUser.ID
		case f.user != "":
			u, err := t.userNamed(f.user)
			if err != nil {
				return err
			}
			owner = u.ID
		}
		keep := func(n *node) bool {
			return (f.name == "" || n.rec.Label == f.name) && (owner == 0 || n.owner() == owner)
		}
		p = page(t.nodes, w, keep, t.apiNode)
		return nil
	})
	return p, err
}

func (s *Server) node(ctx context.Context, id int64) (a Node, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		n := t.nodes[id]
		if n == nil {
			return notFound("there is no node with the number %d", id)
		}
		a = t.apiNode(n)
		return nil
	})
	return a, err
}

// deleteNode deletes a node. Unless its machine is blocked, the machine can register again as a new
// node, for example with a reusable key.
func (s *Server) deleteNode(ctx context.Context, id int64, then returnRule) error {
	return s.core.change(ctx, func(t *tx) error {
		n := t.nodes[id]
		if n == nil {
			return notFound("there is no node with the number %d", id)
		}
		t.deleteNode(id)
		if then == returnBlocked {
			return t.block(n.rec)
		}
		t.after = append(t.after, func() { s.core.noteDeletion(n.rec, t.mono) })
		return nil
	})
}

// noExpiry is the expiry of a node key that does not expire.
var noExpiry time.Time

// expireNode sets the time at which the key of a node expires; nil means now.
func (s *Server) expireNode(ctx context.Context, id int64, at *time.Time) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if at == nil {
			rec.Expiry = t.now.UTC()
			return nil
		}
		rec.Expiry = at.UTC()
		return checkTime(*at)
	})
}

// renameNode gives a node a name that no longer follows the host name. An empty name makes it
// follow the host name again.
func (s *Server) renameNode(ctx context.Context, id int64, name string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if name == "" {
			rec.Given = false
			rec.Label = t.labelOf(rec, hostname(rec.Hostinfo))
			return nil
		}
		if !validLabel(name) {
			return badRequest("%q is not a valid node name: use up to %d lower-case letters, digits or dashes", name, maxLabel)
		}
		if name != rec.Label && t.labelTaken(name) {
			return conflict("there is a node %q already", name)
		}
		rec.Label, rec.Given = name, true
		return nil
	})
}

// checkTagOwners refuses tags that the policy does not define. No rule can refer to them, so they
// are probably misspelt.
func (t *tx) checkTagOwners(tags []string) error {
	for _, tag := range tags {
		if !t.policy.TagOwned(tag) {
			return badRequest("tag %q has no owner in the policy: add it under tagOwners first", tag)
		}
	}
	return nil
}

// tagNode makes tags the owner of a node. A tagged node must keep at least one tag, because it has
// no user to return to.
func (s *Server) tagNode(ctx context.Context, id int64, tags []string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if err := checkTags(tags); err != nil {
			return err
		}
		if err := t.checkTagOwners(tags); err != nil {
			return err
		}
		if len(tags) == 0 && len(rec.Tags) > 0 {
			return badRequest("a tagged node cannot lose all its tags; move it to a user instead")
		}
		rec.Tags = sortedTags(tags)
		if len(tags) > 0 && !rec.expiredAt(t.now) {
			rec.Expiry = time.Time{}
		}
		return nil
	})
}

// moveNode makes a user the owner of a node and removes its tags.
func (s *Server) moveNode(ctx context.Context, id int64, name string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		u, err := t.userNamed(name)
		if err != nil {
			return err
		}
		if len(rec.Tags) > 0 && rec.Expiry.IsZero() {
			rec.Expiry = s.core.keyExpiry(t, time.Time{}, nil) // keys of tagged nodes do not expire
		}
		rec.User, rec.Tags = u.ID, nil
		return nil
	})
}

// approveRoutes replaces the routes of a node that an administrator has approved. Routes that the
// policy approves are not affected.
func (s *Server) approveRoutes(ctx context.Context, id int64, routes []netip.Prefix) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if len(routes) > maxRoutes {
			return badRequest("more than %d routes", maxRoutes)
		}
		rec.Approved = nil
		for _, p := range routes {
			if !p.IsValid() || p != p.Masked() {
				return badRequest("%s is not a network prefix", p)
			}
			if t.coversNodes(p) {
				return badRequest("%s contains addresses of this network's nodes, which no router may serve", p)
			}
			if !slices.Contains(rec.Approved, p) {
				rec.Approved = append(rec.Approved, p)
			}
		}
		if slices.ContainsFunc(rec.Approved, isExit) {
			for _, p := range exitRoutes { // one has no effect without the other
				if !slices.Contains(rec.Approved, p) {
					rec.Approved = append(rec.Approved, p)
				}
			}
		}
		return nil
	})
}

// listRoutes lists the routes that nodes advertise.
func (s *Server) listRoutes(ctx context.Context, w pageRequest) (p Page[Route], err error) {
	nodes := Page[Node]{}
	err = s.core.change(ctx, func(t *tx) error {
		advertises := func(n *node) bool { return n.rec.Hostinfo != nil && len(n.rec.Hostinfo.RoutableIPs) > 0 }
		nodes = page(t.nodes, w, advertises, t.apiNode)
		return nil
	})
	p = Page[Route]{Items: []Route{}, Next: nodes.Next}
	for _, n := range nodes.Items {
		for _, prefix := range n.Routes.Advertised {
			p.Items = append(p.Items, Route{
				Prefix: prefix, NodeID: n.ID, Node: n.Name, Exit: isExit(prefix),
				Approved: slices.Contains(n.Routes.Served, prefix), Primary: slices.Contains(n.Routes.Primary, prefix),
			})
		}
	}
	return p, err
}
