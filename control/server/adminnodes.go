package server

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// changeNode changes the record of a node.
func (s *Server) changeNode(ctx context.Context, id int64, change func(t *tx, rec *nodeRecord) error) (changed Node, err error) {
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

// nodeFilter says which nodes are listed; empty fields let all pass.
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

// deleteNode forgets a node. Its machine is a new one if it comes back, which a reusable key lets
// it do at once; unless it is blocked.
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

// never is the expiry of a node whose key is good for ever.
var noExpiry time.Time

// expireNode has the key of a node expire, at once if at is nil.
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

// renameNode gives a node a name that it keeps, whatever its host is called; an empty one gives the
// host's name back.
func (s *Server) renameNode(ctx context.Context, id int64, name string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if name == "" {
			rec.Given = false
			rec.Label = uniqueLabel(hostname(rec.Hostinfo), func(l string) bool { return l != rec.Label && t.labelTaken(l) })
			return nil
		}
		if !validLabel(name) {
			return badRequest("%q cannot be the name of a node: lower-case letters, digits and dashes can, %d of them", name, maxLabel)
		}
		if name != rec.Label && t.labelTaken(name) {
			return conflict("there is a node %q already", name)
		}
		rec.Label, rec.Given = name, true
		return nil
	})
}

// checkTagOwners refuses tags that the policy does not know: no rule could name them, so they are
// most likely misspelt.
func (t *tx) checkTagOwners(tags []string) error {
	for _, tag := range tags {
		if !t.policy.TagOwned(tag) {
			return badRequest("tag %q has no owner in the policy: add it under tagOwners first", tag)
		}
	}
	return nil
}

// tagNode gives a node to tags. It cannot be taken from them again: who should it belong to?
func (s *Server) tagNode(ctx context.Context, id int64, tags []string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if err := checkTags(tags); err != nil {
			return err
		}
		if err := t.checkTagOwners(tags); err != nil {
			return err
		}
		if len(tags) == 0 && len(rec.Tags) > 0 {
			return badRequest("a node with tags cannot be without; move it to a user instead")
		}
		rec.Tags = sortedTags(tags)
		if len(tags) > 0 && !rec.expiredAt(t.now) {
			rec.Expiry = time.Time{}
		}
		return nil
	})
}

// moveNode gives a node to a user; it has no tags then.
func (s *Server) moveNode(ctx context.Context, id int64, name string) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		u, err := t.userNamed(name)
		if err != nil {
			return err
		}
		if len(rec.Tags) > 0 && rec.Expiry.IsZero() {
			rec.Expiry = s.core.keyExpiry(t, time.Time{}, nil) // with tags it had none
		}
		rec.User, rec.Tags = u.ID, nil
		return nil
	})
}

// approveRoutes approves these routes of a node and no others, except those that the policy
// approves.
func (s *Server) approveRoutes(ctx context.Context, id int64, routes []netip.Prefix) (Node, error) {
	return s.changeNode(ctx, id, func(t *tx, rec *nodeRecord) error {
		if len(routes) > maxRoutes {
			return badRequest("more than %d routes", maxRoutes)
		}
		rec.Approved = nil
		for _, p := range routes {
			if !p.IsValid() || p != p.Masked() {
				return badRequest("%s is no prefix of a network", p)
			}
			if t.coversNodes(p) {
				return badRequest("%s holds addresses of this network's nodes, which no router may take", p)
			}
			if !slices.Contains(rec.Approved, p) {
				rec.Approved = append(rec.Approved, p)
			}
		}
		if half := slices.IndexFunc(exitRoutes, func(p netip.Prefix) bool { return slices.Contains(rec.Approved, p) }); half >= 0 {
			for _, p := range exitRoutes { // of no use alone
				if !slices.Contains(rec.Approved, p) {
					rec.Approved = append(rec.Approved, p)
				}
			}
		}
		return nil
	})
}

// listRoutes lists what nodes advertise.
func (s *Server) listRoutes(ctx context.Context, w pageRequest) (p Page[Route], err error) {
	nodes := Page[Node]{}
	err = s.core.change(ctx, func(t *tx) error {
		nodes = page(t.nodes, w, func(n *node) bool { return n.rec.Hostinfo != nil && len(n.rec.Hostinfo.RoutableIPs) > 0 }, t.apiNode)
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
