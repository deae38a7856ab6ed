package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"ginnel/control/policy"
)

// testsEvery is how long a result of the policy's tests is reused for requests that are frequent or
// that anyone can make: metrics and health checks.
const testsEvery = 10 * time.Second

// policyTests caches the results of the policy's tests. They may change without the policy, for
// example when a node is added.
type policyTests struct {
	mu      sync.Mutex
	at      time.Time // zero: the result is unknown or outdated
	failing []string
}

// failingTests runs the tests of the policy in force on the current nodes and returns those that
// fail.
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

// recentFailingTests is failingTests with a result that may be testsEvery old.
func (s *Server) recentFailingTests(ctx context.Context) ([]string, error) {
	s.tests.mu.Lock()
	at, failing := s.tests.at, s.tests.failing
	s.tests.mu.Unlock()
	if !at.IsZero() && s.cfg.moment().mono.Before(at.Add(testsEvery)) {
		return failing, nil
	}
	return s.failingTests(ctx)
}

// countFailingTests is for the metrics. It returns 0 once the server is closed.
func (s *Server) countFailingTests() int {
	failing, _ := s.recentFailingTests(context.Background())
	return len(failing)
}

// invalidateTests discards the cached result.
func (s *Server) invalidateTests() {
	s.tests.mu.Lock()
	defer s.tests.mu.Unlock()
	s.tests.at = time.Time{}
}

// logFailingTests logs which tests fail when the server starts. The policy stays in force, because
// a server that refuses to start would be worse.
func (s *Server) logFailingTests() {
	failing, err := s.failingTests(context.Background())
	if err != nil {
		s.log.Error("policy tests not run", "err", err)
	}
	for _, test := range failing {
		s.log.Warn("policy in force fails a test", "problem", test)
	}
}

// problemTexts formats the problems in an error of package policy. The result is not nil.
func problemTexts(err error) []string {
	problems, ok := errors.AsType[policy.Problems](err)
	if !ok && err != nil {
		return []string{err.Error()}
	}
	return textsOf(problems)
}
