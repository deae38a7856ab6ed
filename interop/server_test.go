package interop

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// These tests cover what relays do besides relaying: rate limits, admission, restart, and plain
// HTTP.

// TestRateLimit proves that both servers limit the rate of clients of either make without losing a
// packet. They stop reading from a client over its limit, so that TCP flow control slows it down.
func TestRateLimit(t *testing.T) {
	const rate, packets, size = 1 << 20, 200, 8 << 10 // each way
	eachRelay(t, relayserver.Config{ClientRate: rate}, func(t *testing.T, h *relayHost) {
		start := time.Now()
		exchange(t, ours.join(t, h, fastStart), theirs.join(t, h, fastStart), packets, size)
		const burst = relay.MaxPacket + key.Size
		least := (packets*size - burst) * time.Second / rate
		if took := time.Since(start); took < least*9/10 {
			t.Errorf("%d bytes each way took %v, want at least about %v", packets*size, took, least)
		}
	})
}

// TestAdmission proves that our server asks an admission controller as theirs does, with the same
// JSON, and that both obey the answer.
func TestAdmission(t *testing.T) {
	var asked sync.Map // key text to source address
	admitted := key.NewNodePrivate()
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req tailcfg.DERPAdmitClientRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Method != http.MethodPost {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		asked.Store(req.NodePublic.String(), req.Source)
		json.NewEncoder(w).Encode(tailcfg.DERPAdmitClientResponse{Allow: req.NodePublic == theirPublic(admitted.Public())})
	}))
	t.Cleanup(controller.Close)
	cfg := relayserver.Config{AdmissionURL: controller.URL, AdmissionStrict: true}
	eachRelay(t, cfg, func(t *testing.T, h *relayHost) {
		for _, m := range clients {
			m.joinAs(t, h, fastStart, admitted)
		}
		refused := key.NewNodePrivate()
		d, err := connectOurs(t.Context(), t, h, fastStart, refused)
		if err == nil { // with a fast start the refusal comes after connecting
			newTestClient(t, "refused", d, refused.Public()).next(endEvent)
		}
		source, ok := asked.Load(refused.Public().String())
		if want := netip.MustParseAddr("127.0.0.1"); !ok || source != want {
			t.Errorf("controller was asked about the refused client: %v, from %v, want from %v", ok, source, want)
		}
	})
}

// TestRestart proves that their client understands our server's announcement of a restart. Their
// server does not announce restarts.
func TestRestart(t *testing.T) {
	t.Parallel()
	h := startOurRelay(t, relayserver.Config{})
	p := theirs.join(t, h, webSocket)
	if err := h.server.(ourRelay).Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := p.next(restartingEvent); string(e.data) != "5s" {
		t.Errorf("announced %s for reconnecting, want 5s", e.data)
	}
	p.next(endEvent)
}

// TestPages proves that our server answers plain requests as theirs does, including the headers
// that clients look at.
func TestPages(t *testing.T) {
	t.Parallel()
	our, their := newOurRelay(t, relayserver.Config{}), newTheirRelay(t, relayserver.Config{})
	t.Cleanup(our.close)
	t.Cleanup(their.close)
	challenge := http.Header{derpserver.NoContentChallengeHeader: {"ts_relay.test"}}
	for _, r := range []struct {
		method, path string
		header       http.Header
	}{
		{"GET", "/derp", nil},
		{"GET", "/derp", http.Header{"Upgrade": {"h2c"}}},
		{"GET", "/derp/probe", nil},
		{"HEAD", "/derp/probe", nil},
		{"POST", "/derp/probe", nil},
		{"GET", "/derp/latency-check", nil},
		{"GET", "/generate_204", nil},
		{"GET", "/generate_204", challenge},
		{"HEAD", "/generate_204", challenge},
		{"GET", "/generate_204", http.Header{derpserver.NoContentChallengeHeader: {strings.Repeat("x", 64)}}},
		{"GET", "/generate_204", http.Header{derpserver.NoContentChallengeHeader: {strings.Repeat("x", 65)}}},
		{"GET", "/generate_204", http.Header{derpserver.NoContentChallengeHeader: {"white space"}}},
	} {
		got, want := ask(our, r.method, r.path, r.header), ask(their, r.method, r.path, r.header)
		if got.Code != want.Code {
			t.Errorf("%s %s %v: status %d, want %d", r.method, r.path, r.header, got.Code, want.Code)
		}
		for _, name := range []string{"Access-Control-Allow-Origin", derpserver.NoContentResponseHeader, "Cache-Control"} {
			if g, w := got.Header().Get(name), want.Header().Get(name); g != w && want.Code < 400 {
				t.Errorf("%s %s %v: %s is %q, want %q", r.method, r.path, r.header, name, g, w)
			}
		}
	}
}

func ask(s derpServer, method, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w
}
