package server

import (
	"context"
	"fmt"
	"time"

	"ginnel/control/policy"
)

// currentPolicy returns the policy in force, and which of its tests fail.
func (s *Server) currentPolicy(ctx context.Context) (p Policy, err error) {
	if err = s.core.change(ctx, func(t *tx) error { p = t.apiPolicy(); return nil }); err != nil {
		return p, err
	}
	p.Failing, err = s.failingTests(ctx)
	return p, err
}

func (t *tx) apiPolicy() Policy {
	return Policy{Text: t.policyText, Changed: t.policySet, Warnings: warnings(t.policy), Failing: []string{}}
}

// SetPolicy puts a policy in force. One with mistakes, or whose tests fail, is refused, and the one
// before it stays.
func (s *Server) SetPolicy(ctx context.Context, text []byte) (set Policy, err error) {
	p, err := policy.Parse(text)
	if err != nil {
		return Policy{}, badRequest("%v", err)
	}
	err = s.core.change(ctx, func(t *tx) error {
		if err := p.Check(t.policyNodes()); err != nil {
			return badRequest("%v", err)
		}
		if string(text) != t.policyText {
			t.setPolicy(policyRecord{Text: string(text), Changed: t.now.UTC()}, p)
		}
		set = t.apiPolicy()
		return nil
	})
	s.forgetTests()
	return set, err
}

// LoadPolicy puts the policy of a file in force, when the server starts or its file is read again. It
// is SetPolicy, except that a policy which is in force already stays so, even if its tests fail on the
// nodes that have come since: Policy.Failing says which.
func (s *Server) LoadPolicy(ctx context.Context, text []byte) (Policy, error) {
	now, err := s.currentPolicy(ctx)
	if err == nil && now.Text != string(text) {
		return s.SetPolicy(ctx, text)
	}
	return now, err
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
	return Policy{Text: string(text), Warnings: warnings(p), Failing: []string{}}, err
}

// deletePolicy takes the policy away: everybody may do everything.
func (s *Server) deletePolicy(ctx context.Context) error {
	return s.core.change(ctx, func(t *tx) error {
		if t.policy == nil {
			return nil
		}
		t.setPolicy(policyRecord{Changed: time.Time{}}, nil)
		t.after = append(t.after, s.forgetTests)
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
