package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ginnel/control/policy"
	"ginnel/control/server"
)

// policyPoll is how often the policy file is looked at. A look reads it: the time of a change is
// too coarse to go by.
const policyPoll = 500 * time.Millisecond

// readPolicy reads the policy file, and finds what is wrong with it as far as that can be known
// without a network.
func (f *controlFlags) readPolicy() error {
	text, err := os.ReadFile(f.policy)
	if err != nil {
		return usagef("--policy: %w", err)
	}
	if _, err := policy.ParseInForce(text); err != nil { // the rest is known with the state
		return usageError{placedIn(f.policy, err)}
	}
	f.policyText = text
	return nil
}

// checkOffline checks a policy without a server, and therefore without nodes and users.
func checkOffline(text []byte) (server.Policy, error) {
	report, err := policy.Check(text, nil)
	if err != nil {
		return server.Policy{}, err
	}
	return server.Policy{Text: string(text), Warnings: lines(report.Warnings), Failing: []string{}, Explained: lines(report.Explained)}, nil
}

func lines(problems []policy.Problem) []string {
	texts := []string{}
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	return texts
}

// placedIn puts the name of a file before each line and column.
func placedIn(file string, err error) error {
	lines := problems(err)
	for i, line := range lines {
		lines[i] = file + ":" + line
	}
	return errors.New(strings.Join(lines, "\n"))
}

// problems are the lines of an error about a policy.
func problems(err error) []string { return strings.Split(err.Error(), "\n") }

// startPolicy puts the policy file in force before anybody is served. If it has changed, its tests
// may fail on the nodes that there are, and then nothing starts; one that was in force boots.
func (s *controlService) startPolicy(ctx context.Context) error {
	if s.f.policy == "" {
		return nil
	}
	set, err := s.ctl.LoadPolicy(ctx, s.f.policyText)
	if err != nil {
		return usageError{placedIn(s.f.policy, err)}
	}
	s.warnOfPolicy(set)
	return nil
}

func (s *controlService) warnOfPolicy(set server.Policy) {
	for _, w := range set.Warnings {
		s.log.Warn("policy file", "warning", fmt.Sprint(s.f.policy, ":", w))
	}
}

// watchFiles puts the policy file in force when it has changed, and takes everything that comes
// from files anew on SIGHUP.
func (s *controlService) watchFiles(hup <-chan os.Signal) {
	defer close(s.filesc)
	var tick <-chan time.Time
	if s.f.policy != "" {
		ticker := time.NewTicker(policyPoll)
		defer ticker.Stop()
		tick = ticker.C
	}
	seen := policyFile{text: string(s.f.policyText)}
	for {
		asked := false
		select {
		case <-s.stopc:
			return
		case <-hup:
			asked = true
			s.log.Info("reading the files again",
				"files", "certificates, --policy, --derp-map and --dns-config; other settings need a restart")
			s.relay.ReloadCertificates()
			s.useDERPMap()
			s.useDNSConfig()
		case <-tick:
		}
		if s.f.policy == "" {
			continue
		}
		if now := readPolicyFile(s.f.policy); now != seen || asked {
			s.usePolicy(now)
			seen = now
		}
	}
}

// policyFile is what was found at the place of the policy.
type policyFile struct{ text, problem string }

func readPolicyFile(path string) policyFile {
	if err := checkRegular(path); err != nil {
		return policyFile{problem: err.Error()}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return policyFile{problem: err.Error()}
	}
	return policyFile{text: string(text)}
}

// usePolicy puts a policy in force, or says why not; then the one before stays.
func (s *controlService) usePolicy(f policyFile) {
	const refused = "policy file refused, the policy before it stays"
	if f.problem != "" {
		s.log.Error(refused, "problem", f.problem)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	set, err := s.ctl.LoadPolicy(ctx, []byte(f.text))
	if err != nil {
		for _, line := range problems(err) {
			s.log.Error(refused, "problem", fmt.Sprint(s.f.policy, ":", line))
		}
		return
	}
	s.warnOfPolicy(set)
	for _, test := range set.Failing {
		s.log.Warn("policy in force fails a test", "problem", fmt.Sprint(s.f.policy, ":", test))
	}
	s.log.Info("policy file is in force", "file", s.f.policy)
}
