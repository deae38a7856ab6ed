package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"
)

// Bounds of the idle connections to origin servers that one client connection keeps. A client
// connection makes one request after another, so it cannot use a second one to the same origin.
const (
	maxIdleOrigins     = 4
	maxIdlePerOrigin   = 1
	idleOriginTime     = 30 * time.Second
	maxResponseHeaders = 1 << 20
)

// originsOf returns the transport that holds the connections to origin servers of one client
// connection. They are not shared between clients, because an origin may authenticate a connection
// instead of each request (NTLM, Negotiate). A request of another client on that connection would
// have the same identity.
func (h *httpProxy) originsOf(c *conn) *http.Transport {
	if c.origins == nil {
		c.origins = &http.Transport{
			DialContext:            h.dialOrigin,
			DisableCompression:     true, // only the client's own Accept-Encoding is sent
			MaxIdleConns:           maxIdleOrigins,
			MaxIdleConnsPerHost:    maxIdlePerOrigin,
			IdleConnTimeout:        idleOriginTime,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxResponseHeaders,
		}
	}
	return c.origins
}

// closeIdleOrigins closes the idle connections to origin servers, because the client makes no
// further requests.
func (c *conn) closeIdleOrigins() {
	if c.origins != nil {
		c.origins.CloseIdleConnections()
	}
}

// requestContextKey is the key of the request's own context in the context of its dial. The
// transport dials with a context that has the values of the request's context but is not cancelled
// with it.
type requestContextKey struct{}

// RoundTrip implements http.RoundTripper.
func (h *httpProxy) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	origins := h.originsOf(ctx.Value(connKey{}).(*conn))
	res, err := roundTrip(origins, r.WithContext(context.WithValue(ctx, requestContextKey{}, ctx)))
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), res.Header.Get("Upgrade")) {
		res.Body.Close()
		return nil, errors.New("switching to a protocol that was not asked for")
	}
	return nil, &switchedError{res}
}

// switchedError carries a 101 response past ReverseProxy to reverseFailed. ReverseProxy would copy
// the streams itself, with buffers that it holds while idle and goroutines that Close does not wait
// for.
type switchedError struct{ res *http.Response }

func (*switchedError) Error() string { return "protocol switched" }

// dialOrigin dials for the transport.
func (h *httpProxy) dialOrigin(ctx context.Context, network, addr string) (net.Conn, error) {
	s := h.srv
	if !s.live.begin() {
		return nil, errServerClosed
	}
	defer s.live.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, s.dialTimeout())
	defer cancel()
	if request, ok := ctx.Value(requestContextKey{}).(context.Context); ok {
		defer context.AfterFunc(request, cancel)()
	}
	nc, err := s.Dial(ctx, network, addr)
	if err != nil {
		return nil, s.dialFailed(addr, err)
	}
	o := &originConn{Conn: nc, srv: s}
	if !s.live.add(o) {
		nc.Close()
		return nil, s.dialFailed(addr, errServerClosed)
	}
	return o, nil
}

// originConn is a connection to an origin server. It counts its bytes, and Server.Close closes it.
type originConn struct {
	net.Conn
	srv *Server
}

// Read implements net.Conn.
func (o *originConn) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	o.srv.counters.received.Add(uint64(n))
	return n, err
}

// Write implements net.Conn.
func (o *originConn) Write(p []byte) (int, error) {
	n, err := o.Conn.Write(p)
	o.srv.counters.sent.Add(uint64(n))
	return n, err
}

// CloseWrite half-closes a connection that has switched protocols.
func (o *originConn) CloseWrite() error { return closeWrite(o.Conn) }

// Close implements net.Conn.
func (o *originConn) Close() error {
	o.srv.live.remove(o)
	return o.Conn.Close()
}
