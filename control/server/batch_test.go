package server

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inOneBatch runs commands, in this order, in one batch of the loop.
func (n *testNet) inOneBatch(runs ...func(t *tx) error) {
	n.t.Helper()
	var wg sync.WaitGroup
	goc := make(chan struct{})
	errs := make([]error, len(runs)+1)
	for i, run := range append([]func(*tx) error{func(*tx) error { <-goc; return nil }}, runs...) {
		wg.Go(func() { errs[i] = n.server.core.change(n.t.Context(), run) })
		synctest.Wait()
	}
	close(goc)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			n.t.Error(err)
		}
	}
}

// The end of a stream does not affect the node if another stream has replaced it earlier in the
// same batch.
func TestSupersededInOneBatch(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("a")
		p.register(withKey(n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true })))
		c, id := n.server.core, n.node("a").ID
		first, second := &stream{id: id, endc: make(chan struct{})}, &stream{id: id, endc: make(chan struct{})}
		begin := func(s *stream) func(*tx) error { return func(t *tx) error { c.beginStream(t, s); return nil } }
		end := func(s *stream) func(*tx) error { return func(t *tx) error { c.endStream(t, s); return nil } }
		n.inOneBatch(begin(first))
		n.inOneBatch(begin(second), end(first))
		n.inOneBatch(func(t *tx) error {
			if n := t.nodes[id]; c.streams[id] != second || !n.online || !n.polled.IsZero() {
				p.t.Errorf("after the end of the first stream: %+v", n)
			}
			return nil
		})
		settle() // the stream ends with the next step
		select {
		case <-first.endc:
		default:
			t.Error("the first stream has not ended")
		}
		n.inOneBatch(func(t *tx) error { t.deleteNode(id); return nil }, end(second))
		if len(c.streams) != 0 {
			t.Error("a deleted node still has a stream")
		}
	})
}

// Dates that JSON cannot represent are refused. If one reaches the store, only its command fails.
func TestExtremeDates(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.join("a", n.authKey(nil))
		for _, text := range []string{"9999-12-31T23:59:59-23:00", "0000-01-01T00:00:00+23:00"} {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				t.Fatal(err)
			}
			_, tokenErr := n.server.CreateToken(t.Context(), "x", at)
			_, keyErr := n.server.CreateAuthKey(t.Context(), AuthKeyRequest{User: "alice", Expiry: at})
			_, nodeErr := n.server.expireNode(t.Context(), n.node("a").ID, &at)
			for _, err := range []error{tokenErr, keyErr, nodeErr} {
				if _, ok := errors.AsType[*operationError](err); !ok {
					t.Errorf("%s: got %v, want 400", text, err)
				}
			}
			err = n.server.core.change(t.Context(), func(t *tx) error {
				t.putUser(&user{ID: 99, Name: "late", Created: at.UTC()})
				return nil
			})
			if !isStoreError(err) {
				t.Errorf("%s: got %v, want an error of the command", text, err)
			}
		}
		if _, err := n.server.CreateUser(t.Context(), "bob", ""); err != nil {
			t.Error(err)
		}
	})
}
