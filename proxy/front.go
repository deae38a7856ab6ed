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

// front is the HTTP side of a Server: net/http, fed with the connections that turned out to speak
// HTTP.
type front struct {
	srv     *Server
	http    http.Server
	conns   connQueue
	forward httputil.ReverseProxy
}

// maxHeaderBytes bounds a request's head, and with it what a half-open client can make us hold.
const maxHeaderBytes = 64 << 10

func (f *front) init(s *Server) {
	f.srv = s
	f.conns = connQueue{c: make(chan net.Conn), donec: s.live.donec}
	errorLog := discardLog
	if s.Log != nil {
		errorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)
	}
	f.http = http.Server{
		Handler:                      f,
		ReadHeaderTimeout:            s.handshakeTimeout(),
		IdleTimeout:                  s.idleTimeout(),
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     errorLog,
		ConnState:                    f.connState,
		ConnContext:                  withConn,
		DisableGeneralOptionsHandler: true,
	}
	f.initForward(errorLog)
}

var discardLog = log.New(io.Discard, "", 0)

// serve returns when the queue is closed. That ends no connection: those are closed by the Server,
// to which each of them belongs, and net/http's goroutines end with them.
func (f *front) serve() { f.http.Serve(&f.conns) }

// connQueue is the listener of net/http. It holds no connection: push waits for the accept loop,
// and gives up when the Server, and with it the connection, is closed.
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

// Close implements net.Listener. It is the end of the Server that closes the queue.
func (q *connQueue) Close() error { return nil }

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// connState keeps count of net/http's goroutines, one per connection until it is closed or
// hijacked, and of the connections that wait for a request.
func (f *front) connState(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	switch state {
	case http.StateNew:
		f.srv.live.wg.Add(1) // serve is counted, and calls this
	case http.StateActive:
		f.srv.gate.succeed(c, time.Now())
		c.limitReads(time.Time{})
	case http.StateIdle:
		c.limitReads(time.Time{})
		if c.unread {
			c.part(nil)
			return
		}
		f.srv.admitIdle(c)
	case http.StateClosed:
		if !c.served {
			c.failed(errNoRequest)
		}
		c.leaveOrigins()
		f.srv.live.wg.Done()
	case http.StateHijacked:
		c.leaveOrigins()
		f.srv.live.wg.Done()
	}
}

var errNoRequest = errors.New("no HTTP request")

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// ServeHTTP implements http.Handler for the requests of clients.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.srv.live.begin() {
		panic(http.ErrAbortHandler)
	}
	defer f.srv.live.wg.Done()
	c := r.Context().Value(connKey{}).(*conn)
	c.served = true
	// After the handler net/http reads what is left of the request's body, for as long as that takes.
	// It is given a handshake's time, or none if the handler has panicked to break off the response.
	rest := time.Unix(1, 0)
	defer func() { c.limitRest(rest) }()
	f.route(c, w, r)
	rest = time.Now().Add(f.srv.handshakeTimeout())
}

func (f *front) route(c *conn, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		f.serveConnect(c, w, r)
	case r.URL.IsAbs():
		f.serveAbsolute(c, w, r)
	default:
		f.servePage(c, w, r)
	}
}

func (c *conn) limitRest(until time.Time) {
	if !c.hijacked {
		c.limitReads(until)
	}
}

// serveConnect leaves HTTP before it dials, so that the client is watched in the same way whatever
// it speaks.
func (f *front) serveConnect(c *conn, w http.ResponseWriter, r *http.Request) {
	if !f.authorized(c, w, r) {
		return
	}
	host, port, err := net.SplitHostPort(r.URL.Host)
	if err != nil || port == "" || !validPort(port) || !validHost(host) {
		http.Error(w, "CONNECT needs host:port", http.StatusBadRequest)
		return
	}
	if f.hijack(c, w) {
		c.connect(protoConnect, connectAnswers{}, net.JoinHostPort(host, port))
	}
}

// validPort accepts a port that can be dialled, and none.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// hijack takes c out of net/http's hands, with what the client sent ahead. If that fails, c is of
// no more use.
func (f *front) hijack(c *conn, w http.ResponseWriter) bool {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.Close()
		return false
	}
	c.hijacked, c.http, c.head = true, false, nil
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	c.takeAhead(ahead)
	return true
}

// authorized checks the password for use of the proxy, and asks for one if it is missing or wrong.
func (f *front) authorized(c *conn, w http.ResponseWriter, r *http.Request) bool {
	if !c.needsPassword() || f.passwordIn(r, "Proxy-Authorization") {
		return true
	}
	f.srv.counters.authRefused.Add(1)
	w.Header().Set("Proxy-Authenticate", challenge)
	http.Error(w, "The proxy needs a user name and password", http.StatusProxyAuthRequired)
	return false
}

const challenge = `Basic realm="ginnel", charset="UTF-8"`

// passwordIn reports whether the named header carries Basic credentials that Auth accepts.
func (f *front) passwordIn(r *http.Request, header string) bool {
	parsed := http.Request{Header: http.Header{"Authorization": r.Header[header]}}
	user, password, ok := parsed.BasicAuth()
	return ok && f.srv.Auth(user, password)
}

// connectAnswers makes the responses to CONNECT.
type connectAnswers struct{}

func (connectAnswers) granted(net.Addr) []byte {
	return []byte("HTTP/1.1 200 Connection established\r\n\r\n")
}

func (connectAnswers) refused(err error) []byte {
	code := failures[reasonOf(err)].http
	body := sentence(err) + "\n"
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + strconv.Itoa(code) + " " + http.StatusText(code) + "\r\n")
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n")
	b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\nConnection: close\r\n\r\n" + body)
	return []byte(b.String())
}
