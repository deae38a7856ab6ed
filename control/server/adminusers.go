package server

import (
	"context"
	"strings"
	"time"
)

const (
	maxUsers    = 100_000
	maxKeys     = 100_000
	maxTokens   = 1000
	maxUserName = 128
)

// foldName returns a user name in lower case, which is the key of state.byUser and the form that
// policies compare.
func foldName(name string) string { return strings.ToLower(name) }

// userNamed returns a user by name, or an error. Case matters only between users of older versions
// whose names differ in nothing else.
func (t *tx) userNamed(name string) (*user, error) {
	u := t.users[t.byUser[foldName(name)]]
	if u == nil || name == "" {
		return nil, notFound("there is no user %q", name)
	}
	if u.Name != name {
		for _, other := range t.users {
			if other.Name == name {
				return other, nil
			}
		}
	}
	return u, nil
}

func (t *tx) userNumbered(id int64) (*user, error) {
	if u := t.users[id]; u != nil {
		return u, nil
	}
	return nil, notFound("there is no user with the number %d", id)
}

func (t *tx) checkUserName(name string) error {
	switch {
	case name == "" || len(name) > maxUserName || strings.ContainsAny(name, " \t\r\n\"'\\/,:"):
		return badRequest("%q is not a valid user name", name)
	case t.byUser[foldName(name)] != 0 || foldName(name) == taggedUser.Name:
		return conflict("there is a user %q already", name)
	}
	return nil
}

// CreateUser makes a user.
func (s *Server) CreateUser(ctx context.Context, name, display string) (made User, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		if err := t.checkUserName(name); err != nil {
			return err
		}
		if len(display) > maxUserName {
			return badRequest("the display name is longer than %d bytes", maxUserName)
		}
		if len(t.users) >= maxUsers {
			return conflict("the limit of %d users is reached: delete some", len(t.users))
		}
		next := t.counters
		next.User++
		t.count(next)
		u := &user{ID: next.User, Name: name, Display: display, Created: t.now.UTC()}
		t.putUser(u)
		made = u.api()
		return nil
	})
	return made, err
}

func (s *Server) listUsers(ctx context.Context, w pageRequest) (p Page[User], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		p = page(t.users, w, keepAll[*user], (*user).api)
		return nil
	})
	return p, err
}

func (s *Server) renameUser(ctx context.Context, id int64, name, display string) (renamed User, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		u, err := t.userNumbered(id)
		if err != nil {
			return err
		}
		next := *u
		if name != "" && name != u.Name {
			if err := t.checkUserName(name); err != nil && foldName(name) != foldName(u.Name) {
				return err
			}
			next.Name = name
		}
		if display != "" {
			next.Display = display[:min(len(display), maxUserName)]
		}
		t.putUser(&next)
		renamed = next.api()
		return nil
	})
	return renamed, err
}

// deleteUser deletes a user who has neither nodes nor valid pre-auth keys. Tagged nodes do not
// belong to a user. Invalid keys are deleted with the user.
func (s *Server) deleteUser(ctx context.Context, id int64) error {
	return s.core.change(ctx, func(t *tx) error {
		u, err := t.userNumbered(id)
		if err != nil {
			return err
		}
		for _, n := range t.nodes {
			if n.owner() == id {
				return conflict("user %q still has nodes, for example %q", u.Name, n.rec.Label)
			}
		}
		for _, k := range t.keys {
			if k.User == id && k.usable(t.now) == nil {
				return conflict("user %q still has the valid pre-auth key %d", u.Name, k.ID)
			}
		}
		t.deleteKeysOf(id)
		t.deleteUser(u)
		return nil
	})
}

// CreateAuthKey makes a pre-auth key. The secret is only in this answer.
func (s *Server) CreateAuthKey(ctx context.Context, req AuthKeyRequest) (made AuthKey, err error) {
	if err := checkTime(req.Expiry); err != nil {
		return made, err
	}
	secret := newSecret(authKeyPrefix)
	err = s.core.change(ctx, func(t *tx) error {
		u, err := t.userNamed(req.User)
		if err != nil {
			return err
		}
		if err := checkTags(req.Tags); err != nil {
			return err
		}
		if err := t.checkTagOwners(req.Tags); err != nil {
			return err
		}
		if !req.Expiry.IsZero() && !req.Expiry.After(t.now) {
			return badRequest("the expiry %s is in the past", req.Expiry.Format(time.RFC3339))
		}
		t.pruneKeys()
		if len(t.keys) >= maxKeys {
			return conflict("the limit of %d pre-auth keys is reached: delete some", len(t.keys))
		}
		next := t.counters
		next.AuthKey++
		t.count(next)
		k := &authKey{
			ID: next.AuthKey, Hash: hashSecret(secret), User: u.ID, Reusable: req.Reusable, Ephemeral: req.Ephemeral,
			TakeOver: req.TakeOver, Tags: sortedTags(req.Tags), Created: t.now.UTC(), Expiry: req.Expiry.UTC(),
		}
		t.putKey(k)
		made = t.apiKey(k)
		made.Key = secret
		return nil
	})
	return made, err
}

func checkTags(tags []string) error {
	if len(tags) > maxTags {
		return badRequest("more than %d tags", maxTags)
	}
	for _, tag := range tags {
		if !validTag(tag) {
			return badRequest("%q is not a valid tag: use tag:, a letter, and then letters, digits and dashes", tag)
		}
	}
	return nil
}

// listKeys lists the pre-auth keys of a user, or of all users.
func (s *Server) listKeys(ctx context.Context, name string, w pageRequest) (p Page[AuthKey], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		mine := keepAll[*authKey]
		if name != "" {
			u, err := t.userNamed(name)
			if err != nil {
				return err
			}
			mine = func(k *authKey) bool { return k.User == u.ID }
		}
		p = page(t.keys, w, mine, t.apiKey)
		return nil
	})
	return p, err
}

// expireKey makes a pre-auth key expire now. Nodes that it admitted stay.
func (s *Server) expireKey(ctx context.Context, id int64) (k AuthKey, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		old := t.keys[id]
		if old == nil {
			return notFound("there is no pre-auth key with the number %d", id)
		}
		next := *old
		if old.usable(t.now) != errKeyExpired {
			next.Expiry = t.now.UTC()
		}
		t.putKey(&next)
		k = t.apiKey(&next)
		return nil
	})
	return k, err
}

func (s *Server) deleteKey(ctx context.Context, id int64) error {
	return s.core.change(ctx, func(t *tx) error {
		k := t.keys[id]
		if k == nil {
			return notFound("there is no pre-auth key with the number %d", id)
		}
		t.deleteKey(k)
		return nil
	})
}
