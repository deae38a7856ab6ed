package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// Section 7.1: what the main port serves beside DERP.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		hardened := map[string]string{
			"Strict-Transport-Security": "max-age=63072000; includeSubDomains",
			"X-Frame-Options":           "DENY",
			"X-Content-Type-Options":    "nosniff",
		}
		for _, c := range []struct {
			method, path string
			status       int
			body         string // to be found in the body; "-" if that is empty
			headers      map[string]string
		}{
			{"GET", "/derp", 426, "upgrade", nil},
			{"CONNECT", "/", 403, "", nil},
			{"GET", "/derp/", 200, "Ginnel", hardened},
			{"GET", "/derp/probe", 200, "-", map[string]string{"Access-Control-Allow-Origin": "*"}},
			{"HEAD", "/derp/latency-check", 200, "-", map[string]string{"Access-Control-Allow-Origin": "*"}},
			{"POST", "/derp/probe", 405, "", nil},
			{"GET", "/generate_204", 204, "-", map[string]string{"X-Tailscale-Response": "",
				"Cache-Control": "no-cache, no-store, must-revalidate, no-transform, max-age=0"}},
			{"GET", "/bootstrap-dns?q=control.example", 200, "-",
				map[string]string{"Content-Type": "application/json"}},
			{"GET", "/robots.txt", 200, "User-agent: *\nDisallow: /\n", hardened},
			{"GET", "/", 200, "Ginnel", hardened},
			{"GET", "/anything/else", 200, "Ginnel", hardened},
		} {
			resp := r.Get(c.method, c.path, nil)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || !strings.Contains(string(body), strings.Trim(c.body, "-")) ||
				c.body == "-" && len(body) > 0 {
				t.Errorf("%s %s: %s %q, want %d %q", c.method, c.path, resp.Status, body, c.status, c.body)
			}
			for name, want := range c.headers {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s %s: %s: %s, want %s", c.method, c.path, name, got, want)
				}
			}
			if c.headers["X-Frame-Options"] != "" && !strings.Contains(resp.Header.Get("Content-Security-Policy"),
				"default-src 'none'") {
				t.Errorf("%s %s: policy %q", c.method, c.path, resp.Header.Get("Content-Security-Policy"))
			}
		}
		// An upgrade to something else is no DERP, whatever the case of the right one.
		if resp := r.Get("GET", "/derp", http.Header{"Upgrade": {"h2c"}}); resp.StatusCode != 426 {
			t.Errorf("upgrade to h2c: %s", resp.Status)
		}
		for _, upgrade := range []string{"derp", "DeRp", "WebSocket"} { // the last: very old clients (1.6)
			if resp := r.Get("GET", "/derp", http.Header{"Upgrade": {upgrade}}); resp.StatusCode != 101 ||
				resp.Header.Get("Derp-Version") != "2" {
				t.Errorf("upgrade to %s: %s", upgrade, resp.Status)
			}
		}
	})
}

// Section 7.2: the challenge is repeated if its characters are harmless.
func TestNoContentChallenge(t *testing.T) {
	for challenge, want := range map[string]string{
		"ts_derp1.example":      "response ts_derp1.example",
		"A-Z.a_z:09":            "response A-Z.a_z:09",
		strings.Repeat("x", 64): "response " + strings.Repeat("x", 64),
		strings.Repeat("x", 65): "",
		"with space":            "",
		"<script>":              "",
		"":                      "",
	} {
		req := httptest.NewRequest("GET", "/generate_204", nil)
		req.Header.Set("X-Tailscale-Challenge", challenge)
		w := httptest.NewRecorder()
		handleNoContent(w, req)
		if got := w.Header().Get("X-Tailscale-Response"); got != want {
			t.Errorf("%q: got %q, want %q", challenge, got, want)
		}
	}
}

func TestRedirectHandler(t *testing.T) {
	for _, c := range []struct {
		port               int
		method, host, path string
		status             int
		location           string
	}{
		{443, "GET", "relay.example", "/derp?x=1", 302, "https://relay.example/derp?x=1"},
		{443, "HEAD", "relay.example:80", "/", 302, "https://relay.example/"},
		{443, "GET", "[2001:db8::1]:80", "/", 302, "https://[2001:db8::1]/"},
		{8443, "GET", "relay.example:80", "/", 302, "https://relay.example:8443/"},
		{8443, "GET", "[2001:db8::1]", "/", 302, "https://[2001:db8::1]:8443/"},
		{443, "POST", "relay.example", "/", 400, ""},
		{443, "GET", "relay.example", "/generate_204", 204, ""},
	} {
		req := httptest.NewRequest(c.method, "http://x"+c.path, nil)
		req.Host = c.host
		w := httptest.NewRecorder()
		RedirectHandler(c.port).ServeHTTP(w, req)
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s%s: %d %q, want %d %q", c.method, c.host, c.path, w.Code, w.Header().Get("Location"),
				c.status, c.location)
		}
	}
}

// Every metric has the project's prefix, a help text, and its unit in its name.
func TestMetrics(t *testing.T) {
	s := newTestServer(t, Config{})
	for _, refused := range []string{refusedRate, refusedFull} {
		s.metrics.refused.WithLabelValues(refused).Inc()
	}
	w := httptest.NewRecorder()
	s.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body := w.Body.String()
	for _, want := range []string{
		"ginnel_relay_connections 0", `ginnel_relay_clients{where="remote"} 0`,
		`ginnel_relay_refused_connections_total{reason="rate"} 1`,
		`ginnel_relay_dropped_bytes_total{kind="disco",reason="queue_head"} 0`,
		"ginnel_relay_throttled_seconds_total 0", "ginnel_relay_queued_bytes 0",
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "ginnel_relay_") {
			t.Errorf("strange line %q", line)
		}
	}
	if s.Collector() == nil {
		t.Error("no collector")
	}
}
