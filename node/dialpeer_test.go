package node

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A dial of a peer that the server reports offline fails sooner than its timeout. It succeeds if
// the peer answers.
func TestOfflinePeer(t *testing.T) {
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady()
	b.serveHTTP(80, "beta")
	a.start(withProxy)
	offline := false
	seen := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	nm := a.netmap(true)
	nm.Peers[0].Online, nm.Peers[0].LastSeen = &offline, seen
	if err := a.SetMap(nm); err != nil {
		t.Fatal(err)
	}
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("a peer that is there: %q, %v", got, err)
	}
	if p := a.Status().Peers[0]; !p.IsOffline() || !p.LastSeen.Equal(seen) {
		t.Errorf("status: %+v", p)
	}
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), DefaultDialTimeout)
	defer cancel()
	_, err := a.DialContext(ctx, "tcp", "beta:80")
	if ctx.Err() != nil {
		t.Error("the whole time was spent on it")
	}
	if !errors.Is(err, syscall.ETIMEDOUT) || !strings.Contains(err.Error(), "offline since 2026-01-02T03:04:05Z") {
		t.Errorf("dialling: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Ping(short, "beta"); err == nil ||
		!strings.Contains(err.Error(), "peer beta: the peer is offline since 2026-01-02T03:04:05Z") {
		t.Errorf("pinging: %v", err)
	}
	for target, want := range map[string]string{
		"beta":         "reaching beta: peer beta: the peer is offline since",
		"beta:80":      "reaching beta:80: peer beta: the peer is offline since",
		"100.64.9.9:1": "no peer has this address",
		"":             "are required",
	} {
		status, _, body := page(t, a.Node, "POST", "/api/v1/reach?timeout=50ms&target="+target, "")
		if status < 400 || !strings.Contains(body, want) {
			t.Errorf("reaching %q: %d %s", target, status, body)
		}
	}
}
