package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"ginnel/control/policy"
)

// testsEvery is how old the result of the policy's tests may be where it is asked for often, or by
// anybody: by metrics and health checks.
const testsEvery = 10 * time.Second

// policyTests are the results of the tests of the policy in force. They can change without the
// policy: another node, or other tags, are enough.
type policyTests struct {
	mu      sync.Mutex
	at      time.Time // zero: they have not been run, or the policy has changed since
	failing []string
}

// failingTests runs the tests of the policy in force on the nodes and returns those that fail.
func (s *Server) failingTests(ctx context.Context) (failing []string, err error) {
	var p *policy.Policy
	var nodes []policy.Node
	err = s.core.change(ctx, func(t *tx) error {
		p, nodes = t.policy, nil
		if p.HasTests() {
			nodes = t.policyNodes()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	failing = problemTexts(p.Check(nodes))
	s.tests.mu.Lock()
	defer s.tests.mu.Unlock()
	s.tests.at, s.tests.failing = s.cfg.moment().mono, failing
	return failing, nil
}

// recentFailingTests is failingTests, at most testsEvery ago.
func (s *Server) recentFailingTests(ctx context.Context) ([]string, error) {
	s.tests.mu.Lock()
	at, failing := s.tests.at, s.tests.failing
	s.tests.mu.Unlock()
	if !at.IsZero() && s.cfg.moment().mono.Before(at.Add(testsEvery)) {
		return failing, nil
	}
	return s.failingTests(ctx)
}

// countFailingTests is for metrics: it is 0 once the server is closed.
func (s *Server) countFailingTests() int {
	failing, _ := s.recentFailingTests(context.Background())
	return len(failing)
}

// forgetTests has the tests run again when they are asked for.
func (s *Server) invalidateTests() {
	s.tests.mu.Lock()
	defer s.tests.mu.Unlock()
	s.tests.at = time.Time{}
}

// logFailingTests says at the start which tests of the policy in force fail: it stays in force,
// because a server that does not start helps nobody.
func (s *Server) logFailingTests() {
	failing, err := s.failingTests(context.Background())
	if err != nil {
		s.log.Error("tests of the policy not run", "err", err)
	}
	for _, test := range failing {
		s.log.Warn("policy in force fails a test", "problem", test)
	}
}

// problemTexts are the lines of an error of the policy package. The result is not nil.
func problemTexts(err error) []string {
	problems, ok := errors.AsType[policy.Problems](err)
	if !ok && err != nil {
		return []string{err.Error()}
	}
	return textsOf(problems)
}
