package server

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// This file has the pages that a relay serves besides DERP (7.1 to 7.3).

// httpsPort is the port that https URLs leave out.
const httpsPort = 443

const homePage = `<!DOCTYPE html>
<html lang="en">
<title>Ginnel relay</title>
<h1>Ginnel relay</h1>
<p>This is a DERP relay run with Ginnel: it passes encrypted packets between the nodes of a mesh that cannot reach each
other directly. There is nothing to see here.</p>
`

// newMux returns the handler of all paths.
func (s *Server) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/derp", s.handleUpgrade)
	mux.HandleFunc("/derp/probe", handleProbe)
	mux.HandleFunc("/derp/latency-check", handleProbe)
	mux.HandleFunc("/generate_204", handleNoContent)
	mux.HandleFunc("/bootstrap-dns", hardened(handleBootstrapDNS))
	mux.HandleFunc("/robots.txt", hardened(handleRobots))
	mux.HandleFunc("/", hardened(handleHome))
	return mux
}

// hardened adds the headers that let browsers only show the page.
func hardened(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
		head.Set("X-Frame-Options", "DENY")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Content-Security-Policy",
			"default-src 'none'; frame-ancestors 'none'; form-action 'none'; base-uri 'self'; block-all-mixed-content")
		h(w, r)
	}
}

// handleProbe answers clients that measure the latency over HTTPS because UDP is blocked.
func handleProbe(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
}

// handleNoContent lets clients find captive portals: a portal that answers in the relay's place
// does not know the challenge (7.2).
func handleNoContent(w http.ResponseWriter, r *http.Request) {
	if c := r.Header.Get("X-Tailscale-Challenge"); c != "" && len(c) <= 64 && strings.Trim(c, challengeChars) == "" {
		w.Header().Set("X-Tailscale-Response", "response "+c)
	}
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")
	w.WriteHeader(http.StatusNoContent)
}

const challengeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:"

// handleBootstrapDNS publishes no names: the body is empty (7.3).
func handleBootstrapDNS(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close")
}

func handleRobots(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "User-agent: *\nDisallow: /\n")
}

func handleHome(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, homePage)
}

// RedirectHandler is for port 80 beside a TLS port. It answers captive portal checks and redirects
// everything else to https on that port (7.1). With ACME, pass it to the certificate manager's
// HTTPHandler as the fallback.
func RedirectHandler(port int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/generate_204", handleNoContent)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { handleRedirect(w, r, port) })
	return mux
}

func handleRedirect(w http.ResponseWriter, r *http.Request, port int) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "use HTTPS", http.StatusBadRequest)
		return
	}
	host, _, _ := strings.Cut(r.Host, ":")
	if strings.HasPrefix(r.Host, "[") {
		host, _, _ = strings.Cut(r.Host, "]")
		host += "]"
	}
	if port != 0 && port != httpsPort {
		host += ":" + strconv.Itoa(port)
	}
	http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusFound)
}
