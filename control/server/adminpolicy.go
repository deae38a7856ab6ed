package server

import (
	"context"
	"fmt"
	"time"

	"ginnel/control/policy"
)

// currentPolicy returns the policy in force.
func (s *Server) currentPolicy(ctx context.Context) (p Policy, err error) {
	err = s.core.change(ctx, func(t *tx) error {
		p = Policy{Text: t.policyText, Changed: t.policySet, Warnings: warnings(t.policy)}
		return nil
	})
	return p, err
}

// SetPolicy puts a policy in force. One with mistakes is refused, and the one before it stays.
func (s *Server) SetPolicy(ctx context.Context, text []byte) (set Policy, err error) {
	p, err := policy.Parse(text)
	if err != nil {
		return Policy{}, badRequest("%v", err)
	}
	err = s.core.change(ctx, func(t *tx) error {
		if err := p.Check(t.policyNodes()); err != nil {
			return badRequest("%v", err)
		}
		if string(text) == t.policyText {
			set = Policy{Text: t.policyText, Changed: t.policySet, Warnings: warnings(p)}
			return nil
		}
		r := policyRecord{Text: string(text), Changed: t.now.UTC()}
		t.setPolicy(r, p)
		set = Policy{Text: r.Text, Changed: r.Changed, Warnings: warnings(p)}
		return nil
	})
	return set, err
}

// checkPolicy says what SetPolicy would say, and changes nothing.
func (s *Server) checkPolicy(ctx context.Context, text []byte) (checked Policy, err error) {
	p, err := policy.Parse(text)
	if err != nil {
		return Policy{}, badRequest("%v", err)
	}
	err = s.core.change(ctx, func(t *tx) error {
		if err := p.Check(t.policyNodes()); err != nil {
			return badRequest("%v", err)
		}
		return nil
	})
	return Policy{Text: string(text), Warnings: warnings(p)}, err
}

// deletePolicy takes the policy away: everybody may do everything.
func (s *Server) deletePolicy(ctx context.Context) error {
	return s.core.change(ctx, func(t *tx) error {
		if t.policy == nil {
			return nil
		}
		t.setPolicy(policyRecord{Changed: time.Time{}}, nil)
		return nil
	})
}

func warnings(p *policy.Policy) []string {
	texts := []string{}
	for _, w := range p.Warnings() {
		texts = append(texts, fmt.Sprint(w))
	}
	return texts
}
