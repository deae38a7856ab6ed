package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// servePage answers a request to the listener itself.
func (f *front) servePage(c *conn, w http.ResponseWriter, r *http.Request) {
	// A page of the web can name an address of its own and then have that name lead here; the Host
	// tells. No browser comes by a unix socket.
	if c.reach != reachUnix && !isLoopback(hostname(r.Host)) {
		http.Error(w, "These pages are for requests to localhost", http.StatusMisdirectedRequest)
		return
	}
	if c.reach == reachNetwork && !f.srv.trustsPage(r) && !f.pageAuthorized(w, r) {
		return
	}
	r.Header.Del("Proxy-Authorization")
	if f.srv.Pages == nil {
		http.NotFound(w, r)
		return
	}
	f.srv.Pages.ServeHTTP(w, r)
}

func (s *Server) trustsPage(r *http.Request) bool { return s.TrustPage != nil && s.TrustPage(r) }

// pageAuthorized accepts the password of the proxy for its pages too, in either header. It is not
// passed on.
func (f *front) pageAuthorized(w http.ResponseWriter, r *http.Request) bool {
	for _, header := range [...]string{"Proxy-Authorization", "Authorization"} {
		if f.passwordIn(r, header) {
			r.Header.Del(header)
			return true
		}
	}
	f.srv.counters.authRefused.Add(1)
	w.Header().Set("WWW-Authenticate", challenge)
	http.Error(w, "These pages need the user name and password of the proxy", http.StatusUnauthorized)
	return false
}

// hostname is a Host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// isLoopback reports whether name stands for this machine and nothing else, whatever a resolver may
// say.
func isLoopback(name string) bool {
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// named reports whether host is the address of the listener that c came to.
func (c *conn) named(host string) bool {
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
