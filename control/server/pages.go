package server

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ginnel/control"
)

// This file is what the server answers outside of channels (control specification, sections 1.2 and
// 10.3).

// maxAdmitBody is what a relay may send to ask about a client.
const maxAdmitBody = 4 << 10

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /key", s.handleKey)
	mux.HandleFunc("/ts2021", s.handleNoise)
	mux.HandleFunc("GET "+loginPath+"{id}", withSecurityHeaders(s.handleLoginPage))
	mux.HandleFunc("GET /machine/ping-response", handleEmpty)
	mux.HandleFunc("POST /verify", s.handleVerify)
	mux.HandleFunc("GET /healthz", s.handleHealth)
	mux.HandleFunc("GET /health", s.handleHealth)
	mux.HandleFunc("GET /version", s.handleVersion)
	mux.HandleFunc("/generate_204", handleNoContent)
	mux.Handle(apiRoot, s.withToken(s.apiRoutes()))
	return mux
}

func (s *Server) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.handleHealth)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.core.metrics.registry, promhttp.HandlerOpts{}))
	mux.Handle(apiRoot, s.apiRoutes())
	return mux
}

// handleKey gives the key that clients authenticate the server by.
func (s *Server) handleKey(w http.ResponseWriter, r *http.Request) {
	version, err := strconv.Atoi(r.URL.Query().Get("v"))
	if err != nil {
		http.Error(w, "the client has to say which version it speaks (?v=N)", http.StatusBadRequest)
		return
	}
	if !s.noiseConns.versions.supported(w, version) {
		return
	}
	writeJSON(w, http.StatusOK, control.ServerKeys{PublicKey: s.PublicKey()})
}

// handleChannel serves a channel. The gate has Close wait for it: an HTTP server does not once it
// has been upgraded.
func (s *Server) handleNoise(w http.ResponseWriter, r *http.Request) {
	if !s.calls.enter() {
		http.Error(w, "the server is closing", http.StatusServiceUnavailable)
		return
	}
	defer s.calls.leave()
	s.handleUpgrade(w, r)
}

// handleVerify tells relays whether a client is a node of ours. Relays elsewhere ask too, and have
// nothing to show for themselves: whoever asks learns yes or no about a key that it already knows,
// and no more.
func (s *Server) handleVerify(w http.ResponseWriter, r *http.Request) {
	var req control.AdmitRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdmitBody)).Decode(&req); err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	var resp control.AdmitResponse
	err := s.core.change(r.Context(), func(t *tx) error {
		n := t.nodeByKey(req.NodePublic)
		resp.Allow = n != nil && !n.expired
		return nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, http.StatusOK, resp)
}

// health is the answer of a health check, after draft-inadarei-api-health-check.
type health struct {
	Output string `json:"output,omitzero"`
	Status string `json:"status"` // pass or warn
}

// handleHealth answers 200 while the loop does. Anybody may ask, so it tells how many tests of the
// policy fail, not which.
func (s *Server) handleHealth(w http.ResponseWriter, r *http.Request) {
	if err := s.core.change(r.Context(), func(*tx) error { return nil }); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer := health{Status: "pass"}
	if failing, err := s.recentFailingTests(r.Context()); err == nil && len(failing) > 0 {
		answer.Status = "warn"
		answer.Output = fmt.Sprintf("tests of the policy in force fail: %d; ginnel control policy get names them", len(failing))
	}
	writeJSON(w, http.StatusOK, answer)
}

// versionInfo is the answer to GET /version.
type versionInfo struct {
	API               string `json:"api"`
	CapabilityVersion int    `json:"capability_version"`
	MinimumVersion    int    `json:"minimum_version"`
	Version           string `json:"version"`
}

func (s *Server) handleVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, versionInfo{
		API:               "v1",
		CapabilityVersion: control.CapabilityVersion,
		MinimumVersion:    s.noiseConns.versions.least(),
		Version:           s.cfg.Version,
	})
}

func handleEmpty(http.ResponseWriter, *http.Request) {}

// challengeChars are what a challenge may consist of.
const challengeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:"

// handleNoContent lets clients find captive portals: whoever answers for us does not know the
// challenge.
func handleNoContent(w http.ResponseWriter, r *http.Request) {
	if c := r.Header.Get("X-Tailscale-Challenge"); c != "" && len(c) <= 64 && strings.Trim(c, challengeChars) == "" {
		w.Header().Set("X-Tailscale-Response", "response "+c)
	}
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")
	w.WriteHeader(http.StatusNoContent)
}

// hardened adds what keeps browsers from doing anything but showing the page.
func withSecurityHeaders(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("X-Frame-Options", "DENY")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'")
		h(w, r)
	}
}

var loginPage = template.Must(template.New("login").Parse(`<!DOCTYPE html>
<html lang="en">
<title>Ginnel: a node asks to join</title>
<h1>A node asks to join</h1>
{{if .Known}}<p>The machine calls itself <b>{{.Hostname}}</b>{{with .OS}} and runs {{.}}{{end}}. An administrator of the
network lets it in with</p>
<pre>ginnel control nodes approve {{.ID}} --user NAME</pre>
<p>until {{.Until}}. Compare the node's key first, which the node's log and <code>ginnel control nodes pending</code> show in the same form:
<code>{{.Key}}</code></p>
{{else}}<p>Nobody waits here: the login has been approved, refused, or was left for too long. The node's own log has a new
address if it still asks.</p>
{{end}}`))

// handleLoginPage shows who asks to join, and how an administrator lets them in. The page itself
// can do nothing.
func (s *Server) handleLoginPage(w http.ResponseWriter, r *http.Request) {
	id, ok := parseLoginID(r.PathValue("id"))
	if !ok {
		http.Error(w, "this is not the address of a login", http.StatusBadRequest)
		return
	}
	page := struct {
		ID, Hostname, OS, Key, Until string
		Known                        bool
	}{ID: id}
	err := s.core.change(r.Context(), func(t *tx) error {
		l := t.logins[id]
		if l == nil {
			return nil
		}
		page.Known, page.Hostname = true, hostname(l.Hostinfo)
		page.Key, page.Until = l.Key.ShortString(), l.Until.Format(time.RFC3339)
		if l.Hostinfo != nil {
			page.OS = l.Hostinfo.OS
		}
		return nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if !page.Known {
		w.WriteHeader(http.StatusNotFound)
	}
	if err := loginPage.Execute(w, page); err != nil {
		s.log.Debug("login page not written", "err", err)
	}
}
