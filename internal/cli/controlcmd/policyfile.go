package controlcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ginnel/control/policy"
	"ginnel/control/server"
	"ginnel/internal/cli"
	"ginnel/internal/cli/service"
)

// policyPoll is how often the policy file is read to see whether it has changed. Its modification
// time is too coarse for that.
const policyPoll = 500 * time.Millisecond

// applyLimit bounds how long new settings from a file may take to be in force.
const applyLimit = 15 * time.Second

// readPolicy reads the policy file, and checks it as far as that is possible without a network.
func (o *serveOptions) readPolicy() error {
	text, err := os.ReadFile(o.policy)
	if err != nil {
		return cli.Usagef("--policy: %w", err)
	}
	if _, err := policy.ParseInForce(text); err != nil { // the rest needs the state of the network
		return cli.Usage(placedIn(o.policy, err))
	}
	o.policyText = text
	return nil
}

// checkOffline checks a policy without a server, and therefore without nodes and users.
func checkOffline(text []byte) (server.Policy, error) {
	report, err := policy.Check(text, nil)
	if err != nil {
		return server.Policy{}, err
	}
	return server.Policy{Text: string(text), Warnings: lines(report.Warnings), Failing: []string{},
		Explained: lines(report.Explained)}, nil
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

// startPolicy puts the policy file in force before anybody is served. If the policy has changed and
// its tests fail on the nodes of the network, the server does not start. A policy that was in force
// before is accepted.
func (s *controlService) startPolicy(ctx context.Context) error {
	if s.options.policy == "" {
		return nil
	}
	set, err := s.ctl.LoadPolicy(ctx, s.options.policyText)
	if err != nil {
		return cli.Usage(placedIn(s.options.policy, err))
	}
	s.warnOfPolicy(set)
	return nil
}

func (s *controlService) warnOfPolicy(set server.Policy) {
	for _, w := range set.Warnings {
		s.log.Warn("policy file", "warning", fmt.Sprint(s.options.policy, ":", w))
	}
}

// watchFiles puts the policy file in force when it has changed. On SIGHUP it puts everything in
// force that comes from files.
func (s *controlService) watchFiles() {
	seen := policyFile{text: string(s.options.policyText)}
	files := service.Files{Reload: func() {
		s.log.Info("reading the files again",
			"files", "certificates, --policy, --derp-map and --dns-config; other settings need a restart")
		s.relay.ReloadCertificates()
		s.useDERPMap()
		s.useDNSConfig()
		if s.options.policy != "" {
			seen = readPolicyFile(s.options.policy)
			s.usePolicy(seen)
		}
	}}
	if s.options.policy != "" {
		files.Poll = policyPoll
		files.Look = func() {
			if now := readPolicyFile(s.options.policy); now != seen {
				s.usePolicy(now)
				seen = now
			}
		}
	}
	s.runner.WatchFiles(files)
}

// policyFile is the content of the policy file, or why it cannot be read.
type policyFile struct{ text, problem string }

func readPolicyFile(path string) policyFile {
	if err := cli.CheckRegular(path); err != nil {
		return policyFile{problem: err.Error()}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return policyFile{problem: err.Error()}
	}
	return policyFile{text: string(text)}
}

// usePolicy puts a policy in force. If it has mistakes, it logs them, and the old policy stays.
func (s *controlService) usePolicy(f policyFile) {
	const refused = "policy file refused, the policy before it stays"
	if f.problem != "" {
		s.log.Error(refused, "problem", f.problem)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	set, err := s.ctl.LoadPolicy(ctx, []byte(f.text))
	if err != nil {
		for _, line := range problems(err) {
			s.log.Error(refused, "problem", fmt.Sprint(s.options.policy, ":", line))
		}
		return
	}
	s.warnOfPolicy(set)
	for _, test := range set.Failing {
		s.log.Warn("policy in force fails a test", "problem", fmt.Sprint(s.options.policy, ":", test))
	}
	s.log.Info("policy file is in force", "file", s.options.policy)
}
