package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"
)

// Bounds on the connections to origins that a client connection keeps for its next request. It
// makes one request after another, so more than one to the same origin is of no use.
const (
	maxIdleOrigins     = 4
	maxIdlePerOrigin   = 1
	idleOriginTime     = 30 * time.Second
	maxResponseHeaders = 1 << 20
)

// originsOf returns the connections to origins of a client connection. No other client's requests
// go over them: an origin may have authenticated the connection and not the request, as it does
// with NTLM and Negotiate, and then whoever uses the connection has that identity.
func (f *front) originsOf(c *conn) *http.Transport {
	if c.origins == nil {
		c.origins = &http.Transport{
			DialContext:            f.dialOrigin,
			DisableCompression:     true, // the client says what it can decode
			MaxIdleConns:           maxIdleOrigins,
			MaxIdleConnsPerHost:    maxIdlePerOrigin,
			IdleConnTimeout:        idleOriginTime,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxResponseHeaders,
		}
	}
	return c.origins
}

// leaveOrigins closes the connections to origins that are idle: their client asks for no more.
func (c *conn) leaveOrigins() {
	if c.origins != nil {
		c.origins.CloseIdleConnections()
	}
}

// askerKey marks the context of the request that a dial is made for. The transport dials with a
// context that goes on when that request is given up, but keeps its values.
type askerKey struct{}

// RoundTrip implements http.RoundTripper.
func (f *front) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	origins := f.originsOf(ctx.Value(connKey{}).(*conn))
	res, err := send(origins, r.WithContext(context.WithValue(ctx, askerKey{}, ctx)))
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), res.Header.Get("Upgrade")) {
		res.Body.Close()
		return nil, errors.New("switching to a protocol that was not asked for")
	}
	return nil, &switchedError{res}
}

// switchedError carries a response by which the origin leaves HTTP past ReverseProxy, whose own way
// to go on would pump with buffers held and goroutines that Close does not know.
type switchedError struct{ res *http.Response }

func (*switchedError) Error() string { return "protocol switched" }

// dialOrigin dials for the transport.
func (f *front) dialOrigin(ctx context.Context, network, addr string) (net.Conn, error) {
	s := f.srv
	if !s.live.begin() {
		return nil, errServerClosed
	}
	defer s.live.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, s.dialTimeout())
	defer cancel()
	if asker, ok := ctx.Value(askerKey{}).(context.Context); ok {
		defer context.AfterFunc(asker, cancel)()
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

// originConn is a connection of the transport's. It counts, and Close of the Server ends it.
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

// CloseWrite passes on half-close, for a connection that was upgraded.
func (o *originConn) CloseWrite() error { return closeWrite(o.Conn) }

// Close implements net.Conn.
func (o *originConn) Close() error {
	o.srv.live.remove(o)
	return o.Conn.Close()
}
