package server

import (
	"context"
	"slices"
	"time"

	"ginnel/control/policy"
)

// currentPolicy returns the policy in force, including its tests that fail.
func (s *Server) currentPolicy(ctx context.Context) (p Policy, err error) {
	if err = s.core.change(ctx, func(t *tx) error { p = t.apiPolicy(); return nil }); err != nil {
		return p, err
	}
	p.Failing, err = s.failingTests(ctx)
	return p, err
}

func (t *tx) apiPolicy() Policy {
	return Policy{Text: t.policyText, Changed: t.policySet, Warnings: t.warnings(t.policy), Failing: []string{}}
}

// SetPolicy puts a policy in force. If the policy has mistakes or fails its own tests, SetPolicy
// returns an error and the current policy stays in force.
func (s *Server) SetPolicy(ctx context.Context, text []byte) (set Policy, err error) {
	err = s.withPolicy(ctx, text, func(t *tx, p *policy.Policy) {
		if string(text) != t.policyText {
			t.setPolicy(policyRecord{Text: string(text), Changed: t.now.UTC()}, p)
		}
		set = t.apiPolicy()
	})
	s.invalidateTests()
	return set, err
}

// withPolicy parses a policy, runs its tests on the current nodes and, if it passes, calls f in the
// same command.
func (s *Server) withPolicy(ctx context.Context, text []byte, f func(t *tx, p *policy.Policy)) error {
	p, err := policy.Parse(text)
	if err != nil {
		return badRequest("%v", err)
	}
	return s.core.change(ctx, func(t *tx) error {
		if err := p.Check(t.policyNodes()); err != nil {
			return badRequest("%v", err)
		}
		f(t, p)
		return nil
	})
}

// LoadPolicy puts the policy of a file in force, when the server starts or the file is read again.
// It differs from SetPolicy for a policy that is already in force: such a policy stays in force
// even if its tests fail on nodes that were added since. Policy.Failing lists those tests.
func (s *Server) LoadPolicy(ctx context.Context, text []byte) (Policy, error) {
	now, err := s.currentPolicy(ctx)
	if err == nil && now.Text != string(text) {
		return s.SetPolicy(ctx, text)
	}
	return now, err
}

// checkPolicy makes the checks of SetPolicy and changes nothing.
func (s *Server) checkPolicy(ctx context.Context, text []byte, detail policyDetail) (checked Policy, err error) {
	err = s.withPolicy(ctx, text, func(t *tx, p *policy.Policy) {
		checked = Policy{Text: string(text), Warnings: t.warnings(p), Failing: []string{}}
		if detail == explained {
			checked.Explained = textsOf(p.Explain(t.policyNodes()))
		}
	})
	return checked, err
}

// policyDetail says how much checkPolicy returns.
type policyDetail int

const (
	verdictOnly policyDetail = iota
	explained
)

// deletePolicy removes the policy, so that everything is allowed.
func (s *Server) deletePolicy(ctx context.Context) error {
	return s.core.change(ctx, func(t *tx) error {
		if t.policy == nil {
			return nil
		}
		t.setPolicy(policyRecord{Changed: time.Time{}}, nil)
		t.after = append(t.after, s.invalidateTests)
		return nil
	})
}

// warnings returns the warnings about a policy, including those about users that do not exist.
func (t *tx) warnings(p *policy.Policy) []string {
	unknown := p.UnknownUsers(func(name string) bool { return t.byUser[name] != 0 })
	return textsOf(slices.Concat(p.Warnings(), unknown))
}

// textsOf formats problems with their positions. The result is not nil.
func textsOf(problems []policy.Problem) []string {
	texts := []string{}
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	return texts
}
