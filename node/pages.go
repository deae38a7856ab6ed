package node

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// localAPI serves the node's own pages and its API on the ports of the proxies. The proxy passes on
// only requests whose Host is this machine.
type localAPI struct {
	n        *Node
	checking atomic.Bool // a check of the network is running
}

// pingTimeout bounds one ping of the API.
const pingTimeout = 5 * time.Second

func (a *localAPI) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.serveStatusPage)
	mux.HandleFunc("GET /proxy.pac", a.servePAC)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { writeText(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", a.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/status", a.serveStatus)
	mux.HandleFunc("GET /api/v1/netcheck", a.serveNetCheck)
	mux.HandleFunc("POST /api/v1/ping", a.servePing)
	mux.HandleFunc("POST /api/v1/reach", a.serveReach)
	mux.HandleFunc("POST /api/v1/why", a.serveWhy)
	mux.HandleFunc("POST /api/v1/shutdown", a.serveShutdown)
	return mux
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func writeJSON[T any](w http.ResponseWriter, status int, v T) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only if the client has gone
}

// apiError is the body of a failed request to the API.
type apiError struct {
	Error string `json:"error"`
}

// hasToken reports whether the client can read the node's state directory, which has the token.
func (a *localAPI) hasToken(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && a.n.cfg.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(a.n.cfg.Token)) == 1
}

func (a *localAPI) serveStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.n.Status())
}

func (a *localAPI) serveReady(w http.ResponseWriter, _ *http.Request) {
	if s := a.n.Status(); s.State != StateRunning {
		writeText(w, http.StatusServiceUnavailable, fmt.Sprintf("%s: %s", s.State, s.Reason))
		return
	}
	writeText(w, http.StatusOK, "ready")
}

// fromWebPage refuses requests that a web page has made. The browser would keep the answer from the
// page, but not the effect.
func fromWebPage(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Origin") == "" {
		return false
	}
	writeJSON(w, http.StatusForbidden, apiError{"this is not for pages of the web"})
	return true
}

// servePing pings the peer named in the form value "peer".
func (a *localAPI) servePing(w http.ResponseWriter, r *http.Request) {
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
	result, err := a.n.Ping(ctx, peer)
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
func (a *localAPI) serveReach(w http.ResponseWriter, r *http.Request) {
	target, patience, ok := a.readTarget(w, r)
	if !ok {
		return
	}
	switch err := a.n.tryTarget(r.Context(), target, patience); {
	case errors.Is(err, ErrNoSuchPeer):
		writeJSON(w, http.StatusNotFound, apiError{err.Error()})
	case err != nil:
		writeJSON(w, http.StatusGatewayTimeout, apiError{"reaching " + target + ": " + err.Error()})
	default:
		writeJSON(w, http.StatusOK, struct{}{})
	}
}

// readTarget reads the form values "target" and "timeout"; the latter is bounded by
// Config.DialTimeout. It reports false if it has refused the request.
func (a *localAPI) readTarget(w http.ResponseWriter, r *http.Request) (target string, patience time.Duration, ok bool) {
	if fromWebPage(w, r) {
		return "", 0, false
	}
	target = r.FormValue("target")
	patience, err := time.ParseDuration(r.FormValue("timeout"))
	if target == "" || err != nil || patience <= 0 {
		writeJSON(w, http.StatusBadRequest, apiError{"the form values target and timeout are required"})
		return "", 0, false
	}
	return target, min(patience, a.n.cfg.dialTimeout()), true
}

// serveWhy walks the way to the form value "target", host:port or a host. The attempts to connect
// take at most the form value "timeout".
func (a *localAPI) serveWhy(w http.ResponseWriter, r *http.Request) {
	target, patience, ok := a.readTarget(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	writeJSON(w, http.StatusOK, a.n.Why(ctx, target))
}
