package programs

import (
	"slices"
	"testing"
)

// identity is what a node must keep when it changes owner.
type identity struct{ name, addr string }

func identities(m *mesh) map[string]identity {
	m.t.Helper()
	all := make(map[string]identity)
	for _, n := range m.nodes {
		all[n.machine().name] = identity{n.machine().name, n.address().String()}
	}
	return all
}

// tagsOf returns the tags of a peer of the node.
func (d *tailscaled) tagsOf(peer string) []string {
	s, err := d.status()
	if err != nil {
		return []string{err.Error()}
	}
	if p := peerOf(s, peer); p != nil && p.Tags != nil {
		return p.Tags.AsSlice()
	}
	return nil
}

// TestServerRetags proves that a node of either make keeps its name and its address when it logs in
// with the key of a tag, when it logs in with a user's key again, and when an admin sets its tags.
func TestServerRetags(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	s.setPolicy(t, `{
		"tagOwners": {"tag:ci": ["ann@"], "tag:db": ["ann@"]},
		"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	m := newMesh(t, s, relay)
	alpha := newGinnel(t, newHost(t, "alpha"))
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	before := identities(m)
	userKey, tagKey := m.key, s.key(t, "--user", "ann", "--tags", "tag:ci", "--reusable")

	for _, step := range []struct {
		what, key string
		want      []string
	}{
		{"a tag's key", tagKey, []string{"tag:ci"}},
		{"a user's key", userKey, nil},
	} {
		login := beta.upCommand(s.url(), step.key)
		login.Args = append(login.Args, "--force-reauth")
		run(t, login)
		run(t, s.admin("nodes", "expire", "alpha"))
		alpha.process.stop()
		alpha.up(s.url(), step.key)
		m.awaitRecovery()
		m.awaitConnected()
		for _, name := range []string{"alpha", "beta"} {
			eventually(t, name+" has the tags of "+step.what, func() bool { return slices.Equal(gamma.tagsOf(name), step.want) })
		}
		for name, got := range identities(m) {
			if got != before[name] {
				t.Errorf("with %s %s is %+v, was %+v", step.what, name, got, before[name])
			}
		}
	}

	for _, name := range []string{"alpha", "beta"} {
		run(t, s.admin("nodes", "tag", name, "tag:db"))
		eventually(t, name+" has the tag that the admin set",
			func() bool { return slices.Equal(gamma.tagsOf(name), []string{"tag:db"}) })
	}
	m.awaitRecovery()
	m.awaitConnected()
	for name, got := range identities(m) {
		if got != before[name] {
			t.Errorf("with tags set by an admin %s is %+v, was %+v", name, got, before[name])
		}
	}
}
