package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// servePage answers a request that is for the listener itself.
func (h *httpProxy) servePage(c *conn, w http.ResponseWriter, r *http.Request) {
	// DNS rebinding: a web site can let its own name resolve to a loopback address, and then a browser
	// sends its requests here. Such requests have the name in Host. Browsers do not use unix sockets.
	if c.reach != reachUnix && !isLoopback(hostname(r.Host)) {
		http.Error(w, "These pages are for requests to localhost", http.StatusMisdirectedRequest)
		return
	}
	if c.reach == reachNetwork && !h.srv.trustsPage(r) && !h.pageAuthorized(w, r) {
		return
	}
	r.Header.Del("Proxy-Authorization")
	if h.srv.Pages == nil {
		http.NotFound(w, r)
		return
	}
	h.srv.Pages.ServeHTTP(w, r)
}

func (s *Server) trustsPage(r *http.Request) bool { return s.TrustPage != nil && s.TrustPage(r) }

// pageAuthorized checks the password for a page, which is the password of the proxy. It accepts it
// in either header, and removes that header. If no header has it, it answers the request with 401
// and returns false.
func (h *httpProxy) pageAuthorized(w http.ResponseWriter, r *http.Request) bool {
	for _, header := range [...]string{"Proxy-Authorization", "Authorization"} {
		if h.passwordIn(r, header) {
			r.Header.Del(header)
			return true
		}
	}
	h.srv.counters.authRefused.Add(1)
	w.Header().Set("WWW-Authenticate", challenge)
	http.Error(w, "These pages need the user name and password of the proxy", http.StatusUnauthorized)
	return false
}

// hostname returns a Host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// isLoopback reports whether name means this machine without asking a resolver: a loopback address
// or localhost.
func isLoopback(name string) bool {
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// isListenerAddr reports whether host is the address of the listener that accepted c.
func (c *conn) isListenerAddr(host string) bool {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "80"
	}
	return port == strconv.Itoa(local.Port) && (isLoopback(name) || net.ParseIP(name).Equal(local.IP))
}
