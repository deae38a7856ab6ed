package programs

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tailscale.com/client/tailscale/apitype"
)

// TestServerAppGrants proves that a grant of only an application capability makes two stock nodes
// peers, that the destination learns the capability, and that no packets pass because of it.
func TestServerAppGrants(t *testing.T) {
	t.Parallel()
	const capability = "example.com/cap/reports"
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	run(t, s.admin("users", "create", "bob"))
	s.setPolicy(t, `{"grants": [{"src": ["ann@"], "dst": ["bob@"], "app": {"`+capability+`": [{"read": ["sales"]}]}}]}`)
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m := newMesh(t, s, relay)
	beta.up(s.url(), m.key)
	gamma.up(s.url(), s.key(t, "--user", "bob"))
	m.nodes = []node{beta, gamma}
	m.pairs(func(from, to node) {
		eventually(t, from.machine().name+" knows "+to.machine().name, func() bool { return from.knows(to.machine().name) })
		if (flow{from, to, to.address(), servicePort}).passes(denyLimit) {
			t.Errorf("%s reaches the service of %s although only an application capability is granted", from.machine().name,
				to.machine().name)
		}
	})
	var who apitype.WhoIsResponse
	if err := json.Unmarshal([]byte(run(t, gamma.cli("whois", "--json", beta.address().String()))), &who); err != nil {
		t.Fatal(err)
	}
	var granted bytes.Buffer
	for _, g := range who.CapMap[capability] {
		json.Compact(&granted, []byte(g))
	}
	if got, want := granted.String(), `{"read":["sales"]}`; got != want {
		t.Errorf("tailscale whois says that beta may %s, want %s", got, want)
	}
}

// TestServerTaildrop proves that stock nodes of one user on our server can send files to each
// other.
func TestServerTaildrop(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(beta, gamma)
	sent, into := filepath.Join(t.TempDir(), "report.txt"), t.TempDir()
	if err := os.WriteFile(sent, []byte(bulkText("report")), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, beta.cli("file", "cp", sent, "gamma:"))
	run(t, gamma.cli("file", "get", "--wait", into))
	if got, err := os.ReadFile(filepath.Join(into, "report.txt")); err != nil || string(got) != bulkText("report") {
		t.Errorf("gamma got a file of %d bytes: %v", len(got), err)
	}
}
