package controlcmd

import (
	"io"
	"net/http"
	"testing"
)

// What watches a server from outside asks with HEAD as often as with GET, on either half of the
// port.
func TestControlProbes(t *testing.T) {
	c := serveDev(t)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		path string
		want int
	}{
		{"/derp/probe", http.StatusOK}, {"/derp/latency-check", http.StatusOK}, {"/generate_204", http.StatusNoContent},
		{"/health", http.StatusOK}, {"/healthz", http.StatusOK}, {"/version", http.StatusOK}, {"/key?v=130", http.StatusOK},
		{"/robots.txt", http.StatusOK}, {"/bootstrap-dns", http.StatusOK}, {"/derp", http.StatusUpgradeRequired},
		{"/nothing", http.StatusNotFound},
	} {
		for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodPost} {
			if method == http.MethodPost && test.path != "/generate_204" {
				continue // which alone takes any method
			}
			req, err := http.NewRequestWithContext(t.Context(), method, c.url+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Tailscale-Challenge", "ts_test")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != test.want || method == http.MethodHead && len(body) > 0 {
				t.Errorf("%s %s: %s with %d bytes, %v, want status %d", method, test.path, resp.Status, len(body), err, test.want)
			}
			if got := resp.Header.Get("X-Tailscale-Response"); test.path == "/generate_204" && got != "response ts_test" {
				t.Errorf("%s %s: the challenge is answered with %q", method, test.path, got)
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); test.want == http.StatusOK && test.path[:3] == "/de" &&
				got != "*" {
				t.Errorf("%s %s: browsers of other sites may not look: %q", method, test.path, got)
			}
		}
	}
}
