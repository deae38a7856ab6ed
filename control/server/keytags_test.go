package server

import (
	"net/http"
	"testing"
)

// A pre-auth key gets no tag that the policy does not know, as a node does not; the answer names
// the tag and what to do.
func TestKeyTagWithoutOwner(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		create := func(tags ...string) error {
			_, err := n.server.CreateAuthKey(t.Context(), AuthKeyRequest{User: "alice", Tags: tags})
			return err
		}
		count := func() int {
			keys, err := n.server.listKeys(t.Context(), "alice", pageRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return len(keys.Items)
		}
		if err := create("tag:any"); err != nil {
			t.Errorf("without a policy: %v", err)
		}
		if _, err := n.server.SetPolicy(t.Context(),
			[]byte(`{"tagOwners": {"tag:web": ["alice@"], "tag:none": []}}`)); err != nil {
			t.Fatal(err)
		}
		before := count()
		const want = `tag "tag:wbe" has no owner in the policy: add it under tagOwners first`
		if err := create("tag:web", "tag:wbe"); err == nil || err.Error() != want || statusOf(err) != http.StatusBadRequest {
			t.Errorf("a tag without an owner: %v, status %d; want %s", err, statusOf(err), want)
		}
		if got := count(); got != before {
			t.Errorf("refused, and there are %d keys, want %d", got, before)
		}
		if err := create("tag:web", "tag:none"); err != nil {
			t.Errorf("tags with owners: %v", err)
		}
	})
}
