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

// The handlers of this file answer requests outside of Noise connections (control specification,
// sections 1.2 and 10.3).

// maxAdmitBody limits the body of POST /verify, in bytes.
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

// handleKey returns the key by which clients authenticate the server.
func (s *Server) handleKey(w http.ResponseWriter, r *http.Request) {
	version, err := strconv.Atoi(r.URL.Query().Get("v"))
	if err != nil {
		http.Error(w, "missing capability version: request /key?v=N", http.StatusBadRequest)
		return
	}
	if !s.noiseConns.versions.supported(w, version) {
		return
	}
	writeJSON(w, http.StatusOK, control.ServerKeys{PublicKey: s.PublicKey()})
}

// handleNoise serves a Noise connection. It enters calls because the outer HTTP server no longer
// waits for a connection that was upgraded.
func (s *Server) handleNoise(w http.ResponseWriter, r *http.Request) {
	if !s.calls.enter() {
		http.Error(w, "the server is closing", http.StatusServiceUnavailable)
		return
	}
	defer s.calls.leave()
	s.handleUpgrade(w, r)
}

// handleVerify tells a relay whether a client is a node of this network. Anyone may ask, because
// relays elsewhere have no credentials. The answer only says whether a key that the caller already
// knows is registered.
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

// handleHealth answers 200 while the loop runs. Anyone may ask, so the answer has only the number
// of failing policy tests.
func (s *Server) handleHealth(w http.ResponseWriter, r *http.Request) {
	if err := s.core.change(r.Context(), func(*tx) error { return nil }); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer := health{Status: "pass"}
	if failing, err := s.recentFailingTests(r.Context()); err == nil && len(failing) > 0 {
		answer.Status = "warn"
		answer.Output = fmt.Sprintf("failing tests of the policy in force: %d; ginnel control policy get lists them",
			len(failing))
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

// challengeChars are the characters that a challenge may contain.
const challengeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:"

// handleNoContent lets clients detect captive portals, which cannot answer the client's challenge.
func handleNoContent(w http.ResponseWriter, r *http.Request) {
	if c := r.Header.Get("X-Tailscale-Challenge"); c != "" && len(c) <= 64 && strings.Trim(c, challengeChars) == "" {
		w.Header().Set("X-Tailscale-Response", "response "+c)
	}
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")
	w.WriteHeader(http.StatusNoContent)
}

// withSecurityHeaders forbids browsers everything except displaying the page.
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
network approves it with</p>
<pre>ginnel control nodes approve {{.ID}} --user NAME</pre>
<p>until {{.Until}}. First compare the node's key <code>{{.Key}}</code> with the one in the node's log.
<code>ginnel control nodes pending</code> shows it in the same form.</p>
{{else}}<p>No node is waiting here. The login was approved, was refused or has expired. If the node still wants to
join, its log has a new URL.</p>
{{end}}`))

// handleLoginPage shows the node of a login and the command that approves it. The page itself
// offers no action.
func (s *Server) handleLoginPage(w http.ResponseWriter, r *http.Request) {
	id, ok := parseLoginID(r.PathValue("id"))
	if !ok {
		http.Error(w, "this is not a valid login URL", http.StatusBadRequest)
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
