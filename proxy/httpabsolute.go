package proxy

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// initReverse sets up ReverseProxy, which forwards the requests in absolute form. It was made for
// reverse proxies; rewrite and absoluteWriter undo what a forward proxy must not do.
func (h *httpProxy) initReverse(errorLog *log.Logger) {
	h.reverse = httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      h,
		ModifyResponse: func(res *http.Response) error { stripProxyHeaders(res.Header); return nil },
		ErrorHandler:   h.reverseFailed,
		ErrorLog:       errorLog,
		BufferPool:     bodyBuffers{},
		FlushInterval:  -1, // flush after every write
	}
}

// bodyBufferSize is smaller than bufferSize, because ReverseProxy holds its buffer even while it
// waits for bytes.
const bodyBufferSize = 16 << 10

var bodies = sync.Pool{New: func() any { return new([bodyBufferSize]byte) }}

// bodyBuffers makes bodies an httputil.BufferPool.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return bodies.Get().(*[bodyBufferSize]byte)[:] }
func (bodyBuffers) Put(b []byte) { bodies.Put((*[bodyBufferSize]byte)(b)) }

// serveAbsolute handles a request in absolute form (RFC 9112 section 3.2.2), which is for an origin
// server, or for a page of ours if its URL names this listener.
func (h *httpProxy) serveAbsolute(c *conn, w http.ResponseWriter, r *http.Request) {
	dropFragment(r)
	if c.isListenerAddr(r.URL.Host) {
		// Dialling ourselves would have the same result by way of another connection.
		r.URL.Scheme, r.URL.Host, r.URL.User = "", "", nil
		h.servePage(c, w, r)
		return
	}
	if !h.authorized(c, w, r) {
		return
	}
	if r.URL.Scheme != "http" || !validHost(r.URL.Hostname()) || !validPort(r.URL.Port()) {
		http.Error(w, "Only http:// URLs can be asked for; for anything else use CONNECT", http.StatusBadRequest)
		return
	}
	if answeredByMaxForwards(w, r) {
		return
	}
	// Without this, net/http would read the whole request before it sends a response that the origin
	// has begun early.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		panic("internal error: " + err.Error())
	}
	h.srv.counters.httpRequests.Add(1)
	body := &requestBody{ReadCloser: r.Body}
	r.Body = body
	c.bodyLeft = r.ContentLength != 0
	aw := &absoluteWriter{ResponseWriter: w, conn: c, proto: r, body: body}
	aw.entry = entry{protocol: protoHTTP, destination: r.URL.Host, started: time.Now()}
	aw.failure = errCutShort // stays if ReverseProxy panics, which is how it aborts a response
	defer aw.log()
	if h.reverse.ServeHTTP(aw, r); aw.failure == errCutShort {
		aw.failure = nil
	}
	c.bodyLeft = c.bodyLeft && !body.ended.Load()
}

// dropFragment removes the fragment of the request's URL. It is not meant to be sent (RFC 9110
// section 7.1), but some clients send it, and net/http would take it for a part of the path or
// query.
func dropFragment(r *http.Request) {
	uri, _, found := strings.Cut(r.RequestURI, "#")
	if !found {
		return
	}
	if u, err := url.ParseRequestURI(uri); err == nil {
		r.RequestURI, r.URL, r.Host = uri, u, u.Host
	}
}

// requestBody is the body of a client's request. It records how much of it the transport has read.
type requestBody struct {
	io.ReadCloser
	sent  atomic.Uint64
	ended atomic.Bool // read to the end
	bad   atomic.Bool // malformed, or cut off by the client
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.sent.Add(uint64(n))
	switch {
	case err == io.EOF:
		b.ended.Store(true)
	case err != nil:
		b.bad.Store(true)
	}
	return n, err
}

var (
	errCutShort   = errors.New("response cut short")
	errNoResponse = errors.New("connection closed without a response")
)

// answeredByMaxForwards implements RFC 9110 section 7.6.2 for OPTIONS and TRACE. If Max-Forwards is
// 0 it answers the request and returns true. Otherwise it decrements Max-Forwards.
func answeredByMaxForwards(w http.ResponseWriter, r *http.Request) bool {
	left, err := strconv.Atoi(r.Header.Get("Max-Forwards"))
	if err != nil || r.Method != http.MethodOptions && r.Method != http.MethodTrace {
		return false
	}
	if left > 0 {
		r.Header.Set("Max-Forwards", strconv.Itoa(left-1))
		return false
	}
	if r.Method == http.MethodTrace {
		http.Error(w, "TRACE is not supported by this proxy", http.StatusMethodNotAllowed)
	}
	return true
}

// rewrite makes the request the one that the client would have sent to the origin directly.
// ReverseProxy has removed the hop-by-hop headers, as it must. rewrite undoes its other changes,
// which are for reverse proxies, and removes the headers that are for a proxy.
func rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := in.Header[name]; ok && !httpguts.HeaderValuesContainsToken(in.Header["Connection"], name) {
			out.Header[name] = v
		}
	}
	stripProxyHeaders(out.Header)
	out.URL.User = nil
	out.URL.RawQuery = in.URL.RawQuery
	out.URL.Opaque = originPath(in)
	out.Trailer = in.Trailer // the same map: net/http fills it in when it reaches the end of the body
}

// originPath returns the path of the request to the origin exactly as the client wrote it, or "" if
// net/http has to encode the parsed path.
func originPath(r *http.Request) string {
	_, rest, _ := strings.Cut(r.RequestURI, "://")
	i := strings.IndexAny(rest, "/?")
	// "If [...] the URI has an empty path and no query component, then the last proxy on the request
	// chain MUST send a request-target of "*"" (RFC 9112 section 3.2.4).
	if i < 0 && r.Method == http.MethodOptions {
		return "*"
	}
	if i < 0 || rest[i] == '?' {
		return "/"
	}
	path, _, _ := strings.Cut(rest[i:], "?")
	if strings.HasPrefix(path, "//") {
		return "" // URL.RequestURI would take the path for an authority
	}
	return path
}

func stripProxyHeaders(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Proxy-") {
			delete(h, name)
		}
	}
}

// reverseFailed answers a request for which the origin sent no response that can be forwarded.
func (h *httpProxy) reverseFailed(w http.ResponseWriter, r *http.Request, err error) {
	aw := w.(*absoluteWriter)
	if switched, ok := errors.AsType[*switchedError](err); ok {
		h.switchProtocols(aw, switched.res)
		return
	}
	aw.failure = err
	_, isDial := errors.AsType[*dialError](err)
	switch {
	case isDial:
	case aw.body.bad.Load():
		http.Error(w, "reading the request: "+sentence(err), http.StatusBadRequest)
		return
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = &dialError{r.URL.Host, errNoResponse}
	default:
		err = &dialError{r.URL.Host, err}
	}
	http.Error(w, sentence(err), failures[reasonOf(err)].http)
}

// switchProtocols forwards a 101 response and then joins the two connections by a tunnel.
func (h *httpProxy) switchProtocols(aw *absoluteWriter, res *http.Response) {
	upstream := res.Body.(io.ReadWriteCloser) // documented for a response with status 101
	res.Body = nil
	stripProxyHeaders(res.Header)
	c := aw.conn
	if !h.hijack(c, aw.ResponseWriter) || !c.attach(upstream) {
		upstream.Close()
		return
	}
	if err := res.Write(c); err != nil {
		aw.failure = err
		c.Close()
		return
	}
	aw.switched = true
	// The totals are not used, because the originConn counts the bytes for the Server.
	c.startTunnel(aw.entry, upstream, new(atomic.Uint64), new(atomic.Uint64))
}

// absoluteWriter writes the response to a request in absolute form. It corrects what ReverseProxy
// and net/http would add to the origin's response.
type absoluteWriter struct {
	http.ResponseWriter
	conn     *conn
	proto    interface{ ProtoAtLeast(major, minor int) bool }
	body     *requestBody
	entry    entry
	failure  error
	switched bool // a tunnel has taken over, and logs entry when it ends
}

// Unwrap is called by http.ResponseController.
func (w *absoluteWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *absoluteWriter) WriteHeader(code int) {
	// "A server MUST NOT send a 1xx response to an HTTP/1.0 client" (RFC 9110 section 15.2). The
	// origin's 100 (Continue) is not forwarded, because net/http sends one itself when the transport
	// begins to read the body.
	if code < 200 && (code == http.StatusContinue || !w.proto.ProtoAtLeast(1, 1)) {
		return
	}
	if h := w.Header(); code >= 200 && h["Content-Type"] == nil {
		h["Content-Type"] = nil // keeps net/http from guessing one
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *absoluteWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.entry.received += uint64(n)
	return n, err
}

func (w *absoluteWriter) log() {
	if !w.switched {
		w.entry.sent = w.body.sent.Load()
		w.conn.log(w.entry, w.failure)
	}
}
