package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// onlyFrom is a format for two addresses: a policy that lets the first use the service of the
// second, and denies everything else.
const onlyFrom = `{"acls": [{"action": "accept", "src": ["%s"], "dst": ["%s:8000"]}]} // HuJSON`

// policyDelay is how long a new policy may take to have effect.
const policyDelay = time.Second

// allow puts a policy into force that lets only one node use the service of another.
func (s *ourServer) allow(t *testing.T, from, to node) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.hujson")
	if err := os.WriteFile(file, fmt.Appendf(nil, onlyFrom, from.address(), to.address()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, s.admin("policy", "set", file))
}

// reachability is whether one node reaches another.
type reachability string

const (
	reachable   reachability = "reachable"
	unreachable reachability = "unreachable"
)

// awaitReachability checks that requests from one node to another succeed, or fail, at the latest
// policyDelay after the call.
func awaitReachability(t *testing.T, want reachability, from, to node) {
	t.Helper()
	names := from.machine().name + " to " + to.machine().name
	begun := time.Now()
	for {
		asked := time.Since(begun)
		_, err := fetchWithin(2*time.Second, from, to.address().String(), "/")
		got := reachable
		if err != nil {
			got = unreachable
		}
		if got == want {
			t.Logf("%s: %s after %v", names, got, asked.Round(time.Millisecond))
			return
		}
		if asked > policyDelay {
			t.Fatalf("%s: %s, want %s (%v)", names, got, want, err)
		}
	}
}

// TestServerPolicy proves that tailscaled and our node both enforce our server's policy on packets
// from each other, and that a change has effect within a second.
func TestServerPolicy(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)
	m.reachAll()
	for _, c := range []struct{ from, to node }{{alpha, beta}, {beta, alpha}, {alpha, beta}} {
		s.allow(t, c.from, c.to)
		awaitReachability(t, unreachable, c.to, c.from)
		awaitReachability(t, reachable, c.from, c.to)
	}
	run(t, s.admin("policy", "delete"))
	m.awaitRecovery()
}
