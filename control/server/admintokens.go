package server

import (
	"context"
	"time"
)

// CreateToken makes an API token. The secret is only in this answer.
func (s *Server) CreateToken(ctx context.Context, name string, expiry time.Time) (made Token, err error) {
	if err := checkTime(expiry); err != nil {
		return made, err
	}
	secret := newSecret(tokenPrefix)
	err = s.core.change(ctx, func(t *tx) error {
		switch {
		case len(name) > maxUserName:
			return badRequest("the name is longer than %d bytes", maxUserName)
		case !expiry.IsZero() && !expiry.After(t.now):
			return badRequest("the expiry %s is in the past", expiry.Format(time.RFC3339))
		case len(t.tokens) >= maxTokens:
			return conflict("the limit of %d tokens is reached: delete some", len(t.tokens))
		}
		next := t.counters
		next.Token++
		t.count(next)
		k := &token{ID: next.Token, Hash: hashSecret(secret), Name: name, Created: t.now.UTC(), Expiry: expiry.UTC()}
		t.putToken(k)
		made = k.api()
		made.Token = secret
		return nil
	})
	return made, err
}

func (s *Server) listTokens(ctx context.Context, w pageRequest) (p Page[Token], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		p = page(t.tokens, w, keepAll[*token], (*token).api)
		return nil
	})
	return p, err
}

func (s *Server) deleteToken(ctx context.Context, id int64) error {
	return s.core.change(ctx, func(t *tx) error {
		k := t.tokens[id]
		if k == nil {
			return notFound("there is no token with the number %d", id)
		}
		t.deleteToken(k)
		return nil
	})
}

// tokenValid reports whether a secret belongs to a valid token.
func (s *Server) tokenValid(ctx context.Context, secret string) (valid bool, err error) {
	hash := hashSecret(secret)
	err = s.core.change(ctx, func(t *tx) error {
		k := t.tokens[t.byHash[hash]]
		valid = k != nil && k.Hash == hash && (k.Expiry.IsZero() || t.now.Before(k.Expiry))
		return nil
	})
	return valid, err
}
