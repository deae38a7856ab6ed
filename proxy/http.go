package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"
)

// httpProxy is the HTTP side of a Server: net/http's server, which is fed the connections that
// speak HTTP.
type httpProxy struct {
	srv     *Server
	server  http.Server
	conns   connQueue
	reverse httputil.ReverseProxy
}

// maxHeaderBytes bounds the head of a request, and with it the memory that a client can take during
// its handshake.
const maxHeaderBytes = 64 << 10

func (h *httpProxy) init(s *Server) {
	h.srv = s
	h.conns = connQueue{c: make(chan net.Conn), donec: s.live.ctx.Done()}
	errorLog := discardLog
	if s.Log != nil {
		errorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)
	}
	h.server = http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            s.handshakeTimeout(),
		IdleTimeout:                  s.idleTimeout(),
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     errorLog,
		ConnState:                    h.connState,
		ConnContext:                  withConn,
		DisableGeneralOptionsHandler: true,
	}
	h.initReverse(errorLog)
}

var discardLog = log.New(io.Discard, "", 0)

// serve runs net/http's accept loop until the Server is closed. Close of the Server closes the
// connections, and net/http's goroutines end with them.
func (h *httpProxy) serve() { h.server.Serve(&h.conns) }

// connQueue is the listener of net/http. It holds no connection: push waits for the accept loop
// until the Server is closed, which closes the connection too.
type connQueue struct {
	c     chan net.Conn
	donec <-chan struct{}
}

func (q *connQueue) push(c *conn) {
	select {
	case q.c <- c:
	case <-q.donec:
	}
}

// Accept implements net.Listener.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.c:
		return c, nil
	case <-q.donec:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It does nothing, because the queue ends with the Server.
func (q *connQueue) Close() error { return nil }

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// connState counts net/http's goroutines, of which each connection has one until it is closed or
// hijacked. It also tells handshakeLimit when a connection waits for a request.
func (h *httpProxy) connState(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	switch state {
	case http.StateNew:
		h.srv.live.wg.Add(1) // called by serve's goroutine, which wg counts
	case http.StateActive:
		h.srv.limit.handshakeDone(c, time.Now())
		c.boundReadDeadline(time.Time{})
	case http.StateIdle:
		c.boundReadDeadline(time.Time{})
		if c.bodyLeft {
			c.lingerClose(nil) // what follows is the rest of the body, not a request
			return
		}
		h.srv.addIdle(c)
	case http.StateClosed:
		if !c.served {
			c.handshakeFailed(errNoRequest)
		}
		c.closeIdleOrigins()
		h.srv.live.wg.Done()
	case http.StateHijacked:
		c.closeIdleOrigins()
		h.srv.live.wg.Done()
	}
}

var errNoRequest = errors.New("no HTTP request")

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// ServeHTTP implements http.Handler for the requests of clients.
func (h *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.srv.live.begin() {
		panic(http.ErrAbortHandler)
	}
	defer h.srv.live.wg.Done()
	c := r.Context().Value(connKey{}).(*conn)
	c.served = true
	// After the handler, net/http reads the rest of the request's body without a time limit. Here it
	// gets HandshakeTimeout, or no time if the handler has panicked to abort the response.
	deadline := time.Unix(1, 0)
	defer func() { c.boundBodyRest(deadline) }()
	h.route(c, w, r)
	deadline = time.Now().Add(h.srv.handshakeTimeout())
}

func (h *httpProxy) route(c *conn, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		h.serveConnect(c, w, r)
	case r.URL.IsAbs():
		h.serveAbsolute(c, w, r)
	default:
		h.servePage(c, w, r)
	}
}

func (c *conn) boundBodyRest(deadline time.Time) {
	if !c.hijacked {
		c.boundReadDeadline(deadline)
	}
}

// serveConnect takes the connection over from net/http before it dials, so that dial can watch for
// a hang-up as it does for SOCKS.
func (h *httpProxy) serveConnect(c *conn, w http.ResponseWriter, r *http.Request) {
	if !h.authorized(c, w, r) {
		return
	}
	host, port, err := net.SplitHostPort(r.URL.Host)
	if err != nil || port == "" || !validPort(port) || !validHost(host) {
		http.Error(w, "CONNECT needs host:port", http.StatusBadRequest)
		return
	}
	if h.hijack(c, w) {
		c.connect(protoConnect, connectReplies{}, net.JoinHostPort(host, port))
	}
}

// validPort reports whether port is a number from 1 to 65535, or empty.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// hijack takes c over from net/http, together with the bytes that net/http has read ahead. If that
// fails it closes c and returns false.
func (h *httpProxy) hijack(c *conn, w http.ResponseWriter) bool {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.Close()
		return false
	}
	c.hijacked, c.http, c.head = true, false, nil
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	c.prependAhead(ahead)
	return true
}

// authorized checks the password for the use of the proxy. If it is missing or wrong, authorized
// answers the request with 407 and returns false.
func (h *httpProxy) authorized(c *conn, w http.ResponseWriter, r *http.Request) bool {
	if !c.needsPassword() || h.passwordIn(r, "Proxy-Authorization") {
		return true
	}
	h.srv.counters.authRefused.Add(1)
	w.Header().Set("Proxy-Authenticate", challenge)
	http.Error(w, "The proxy needs a user name and password", http.StatusProxyAuthRequired)
	return false
}

const challenge = `Basic realm="ginnel", charset="UTF-8"`

// passwordIn reports whether the named header carries Basic credentials that Auth accepts.
func (h *httpProxy) passwordIn(r *http.Request, header string) bool {
	parsed := http.Request{Header: http.Header{"Authorization": r.Header[header]}}
	user, password, ok := parsed.BasicAuth()
	return ok && h.srv.Auth(user, password)
}

// connectReplies makes the responses to CONNECT.
type connectReplies struct{}

func (connectReplies) granted(net.Addr) []byte {
	return []byte("HTTP/1.1 200 Connection established\r\n\r\n")
}

func (connectReplies) refused(err error) []byte {
	code := failures[reasonOf(err)].http
	body := sentence(err) + "\n"
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + strconv.Itoa(code) + " " + http.StatusText(code) + "\r\n")
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n")
	b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\nConnection: close\r\n\r\n" + body)
	return []byte(b.String())
}
