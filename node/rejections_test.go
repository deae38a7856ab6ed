package node

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A peer rejects a connection by policy, so that a dial ends long before its timeout; through the
// proxy with 403. A port that policy lets in and that is not served refuses at once.
func TestPeerRejects(t *testing.T) {
	n := newNetwork(t)
	if _, err := n.srv.SetPolicy(t.Context(),
		[]byte(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:81"]}]}`)); err != nil {
		t.Fatal(err)
	}
	a, b := n.join("alpha", withProxy), n.join("beta")
	for _, m := range []*member{a, b} {
		eventually(t, m.name+" has joined",
			func() bool { return len(m.Status().Peers) == 1 && m.Status().State == StateRunning })
	}
	began := time.Now()
	_, err := a.DialContext(t.Context(), "tcp", "beta:81")
	if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > 5*time.Second {
		t.Errorf("a port that nobody serves: %v after %v, want a refusal at once", err, time.Since(began))
	}
	for _, addr := range []string{"beta:80", "[" + b.Status().Self.Addresses[1].String() + "]:80"} {
		began = time.Now()
		_, err = a.DialContext(t.Context(), "tcp", addr)
		if !errors.Is(err, fs.ErrPermission) ||
			!strings.Contains(err.Error(),
				"peer beta: refused: the network's policy does not let this node reach port 80 there") {
			t.Errorf("%s, which policy does not let in: %v", addr, err)
		}
		if took := time.Since(began); took < rejectionPatience || took > 8*time.Second {
			t.Errorf("%s: given up after %v, want after the SYN that follows %v", addr, took, rejectionPatience)
		}
	}
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: a.Status().Proxies[0]})}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(httptest.NewRequest("GET", "http://beta/", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("through the proxy: %s, want 403", resp.Status)
	}
	if len(a.plane.rejections.dials) != 0 {
		t.Errorf("%d dials are still listed", len(a.plane.rejections.dials))
	}
}

// A peer may learn of a node only after the first SYN: the dial continues.
func TestRejectedTooEarly(t *testing.T) {
	var r rejections
	to := netip.MustParseAddrPort("100.64.0.2:80")
	ended := false
	d := r.begin(to, func(error) { ended = true })
	r.hear(to)
	r.hear(netip.MustParseAddrPort("100.64.0.2:81"))
	if ended {
		t.Error("the first rejection ended the dial")
	}
	if err := r.end(d, nil); err != nil {
		t.Errorf("a connection that came about: %v", err)
	}
	for err, want := range map[error]bool{syscall.ETIMEDOUT: true, syscall.ECONNREFUSED: false} {
		d := r.begin(to, func(error) { ended = true })
		if r.hear(to); r.end(d, err) == nil || isRejected(r.end(d, err)) != want {
			t.Errorf("%v after a rejection: rejected %v, want %v", err, !want, want)
		}
	}
	d = r.begin(to, func(error) { ended = true })
	d.began = d.began.Add(-rejectionPatience)
	if r.hear(to); !ended {
		t.Error("a dial that is rejected for long enough goes on")
	}
}
