package node

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The node's own pages on the proxy port. The proxy lets only requests through whose Host is this
// machine.

// pingTimeout bounds one ping of the API.
const pingTimeout = 5 * time.Second

func (n *Node) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", n.serveStatusPage)
	mux.HandleFunc("GET /proxy.pac", n.servePAC)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { writeText(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", n.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics(), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/status", n.serveStatus)
	mux.HandleFunc("GET /api/v1/netcheck", n.serveNetCheck)
	mux.HandleFunc("POST /api/v1/ping", n.servePing)
	mux.HandleFunc("POST /api/v1/reach", n.serveReach)
	mux.HandleFunc("POST /api/v1/why", n.serveWhy)
	mux.HandleFunc("POST /api/v1/shutdown", n.serveShutdown)
	return mux
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // what fails is the client's connection
}

// apiError is the body of a failed request to the API.
type apiError struct {
	Error string `json:"error"`
}

// hasToken reports whether the request comes from somebody who can read the node's state directory.
func (n *Node) hasToken(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && n.cfg.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(n.cfg.Token)) == 1
}

func (n *Node) serveStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, n.Status())
}

func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if s := n.Status(); s.State != StateRunning {
		writeText(w, http.StatusServiceUnavailable, fmt.Sprintf("%s: %s", s.State, s.Reason))
		return
	}
	writeText(w, http.StatusOK, "ready")
}

// fromWebPage refuses what a page of the web has sent here, though it could not read the answers.
func fromWebPage(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Origin") == "" {
		return false
	}
	writeJSON(w, http.StatusForbidden, apiError{"this is not for pages of the web"})
	return true
}

// servePing pings the peer named in the form value "peer".
func (n *Node) servePing(w http.ResponseWriter, r *http.Request) {
	if fromWebPage(w, r) {
		return
	}
	peer := r.FormValue("peer")
	if peer == "" {
		writeJSON(w, http.StatusBadRequest, apiError{"the form value peer is missing"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	result, err := n.Ping(ctx, peer)
	switch {
	case errors.Is(err, ErrNoSuchPeer):
		writeJSON(w, http.StatusNotFound, apiError{err.Error()})
	case err != nil:
		writeJSON(w, http.StatusGatewayTimeout, apiError{err.Error()})
	default:
		writeJSON(w, http.StatusOK, result)
	}
}

// serveReach tries once whether the form value "target", host:port or a host, answers within the
// form value "timeout".
func (n *Node) serveReach(w http.ResponseWriter, r *http.Request) {
	target, patience, ok := n.readTarget(w, r)
	if !ok {
		return
	}
	switch err := n.tryTarget(r.Context(), target, patience); {
	case errors.Is(err, ErrNoSuchPeer):
		writeJSON(w, http.StatusNotFound, apiError{err.Error()})
	case err != nil:
		writeJSON(w, http.StatusGatewayTimeout, apiError{"reaching " + target + ": " + err.Error()})
	default:
		writeJSON(w, http.StatusOK, struct{}{})
	}
}

// readTarget reads the form values "target" and "timeout", which DialTimeout bounds. It reports
// false if it has refused the request.
func (n *Node) readTarget(w http.ResponseWriter, r *http.Request) (target string, patience time.Duration, ok bool) {
	if fromWebPage(w, r) {
		return "", 0, false
	}
	target = r.FormValue("target")
	patience, err := time.ParseDuration(r.FormValue("timeout"))
	if target == "" || err != nil || patience <= 0 {
		writeJSON(w, http.StatusBadRequest, apiError{"the form values target and timeout are wanted"})
		return "", 0, false
	}
	return target, min(patience, n.cfg.dialTimeout()), true
}

// serveWhy walks the way to the form value "target", host:port or a host, with attempts that take
// at most the form value "timeout".
func (n *Node) serveWhy(w http.ResponseWriter, r *http.Request) {
	target, patience, ok := n.readTarget(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	writeJSON(w, http.StatusOK, n.Why(ctx, target))
}
