package server

import (
	"cmp"
	"context"
	"slices"
)

func (s *Server) listLogins(ctx context.Context) (p Page[Login], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		p = Page[Login]{Items: make([]Login, 0, len(t.logins))}
		for _, l := range t.logins {
			p.Items = append(p.Items, s.core.apiLogin(t, l))
		}
		return nil
	})
	slices.SortFunc(p.Items, func(a, b Login) int { return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.ID, b.ID)) })
	return p, err
}

func (c *core) loginNumbered(t *tx, id string) (*login, error) {
	if _, ok := parseLoginID(id); !ok {
		return nil, badRequest("%q is not a login ID: login IDs begin with %s", id, loginPrefix)
	}
	if l := t.logins[id]; l != nil && t.mono.Before(c.loginDeadline(l)) {
		return l, nil
	}
	return nil, notFound("no login %q is waiting for approval", id)
}

// ApproveLogin admits the node that waits under a login ID, as a node of a user.
func (s *Server) ApproveLogin(ctx context.Context, id, user string) (approved Node, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		l, err := s.core.loginNumbered(t, id)
		if err != nil {
			return err
		}
		u, err := t.userNamed(user)
		if err != nil {
			return err
		}
		n, err := s.core.approve(t, l, u)
		if err != nil {
			return conflict("%v", err)
		}
		approved = t.apiNode(n)
		return nil
	})
	return approved, err
}

func (s *Server) refuseLogin(ctx context.Context, id string) error {
	return s.core.change(ctx, func(t *tx) error {
		l, err := s.core.loginNumbered(t, id)
		if err != nil {
			return err
		}
		s.core.endLogin(t, l, loginRefused)
		return nil
	})
}
