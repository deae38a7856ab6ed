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

func (f *front) initForward(errorLog *log.Logger) {
	f.forward = httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      f,
		ModifyResponse: func(res *http.Response) error { stripProxyHeaders(res.Header); return nil },
		ErrorHandler:   f.forwardFailed,
		ErrorLog:       errorLog,
		BufferPool:     bodyBuffers{},
		FlushInterval:  -1, // nothing is held back
	}
}

// bodyBufferSize is smaller than a tunnel's buffer, because ReverseProxy holds it while nothing
// comes, too.
const bodyBufferSize = 16 << 10

var bodies = sync.Pool{New: func() any { return new([bodyBufferSize]byte) }}

// bodyBuffers is bodies for ReverseProxy.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return bodies.Get().(*[bodyBufferSize]byte)[:] }
func (bodyBuffers) Put(b []byte) { bodies.Put((*[bodyBufferSize]byte)(b)) }

// serveAbsolute handles a request in absolute form (RFC 9112 section 3.2.2): it is for another
// server, unless it names this one.
func (f *front) serveAbsolute(c *conn, w http.ResponseWriter, r *http.Request) {
	dropFragment(r)
	if c.named(r.URL.Host) {
		// To dial ourselves would come to the same, one connection later.
		r.URL.Scheme, r.URL.Host, r.URL.User = "", "", nil
		f.servePage(c, w, r)
		return
	}
	if !f.authorized(c, w, r) {
		return
	}
	if r.URL.Scheme != "http" || !validHost(r.URL.Hostname()) || !validPort(r.URL.Port()) {
		http.Error(w, "Only http:// URLs can be asked for; for anything else use CONNECT", http.StatusBadRequest)
		return
	}
	if lastHop(w, r) {
		return
	}
	// Without this net/http would wait for the whole request before it passes on a response that the
	// origin begins early.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		panic("internal error: " + err.Error())
	}
	f.srv.counters.httpRequests.Add(1)
	body := &requestBody{ReadCloser: r.Body}
	r.Body = body
	c.unread = r.ContentLength != 0
	fw := &forwardWriter{ResponseWriter: w, conn: c, proto: r, body: body}
	fw.entry = entry{protocol: protoHTTP, destination: r.URL.Host, started: time.Now()}
	fw.failure = errCutShort // what stands if ReverseProxy panics, which is how it ends a response midway
	defer fw.log()
	if f.forward.ServeHTTP(fw, r); fw.failure == errCutShort {
		fw.failure = nil
	}
	c.unread = c.unread && !body.ended.Load()
}

// dropFragment leaves out what is for the client alone (RFC 9110, section 7.1) and what some
// clients send all the same. net/http takes it for a part of what stands before it.
func dropFragment(r *http.Request) {
	uri, _, found := strings.Cut(r.RequestURI, "#")
	if !found {
		return
	}
	if u, err := url.ParseRequestURI(uri); err == nil {
		r.RequestURI, r.URL, r.Host = uri, u, u.Host
	}
}

// requestBody knows how far it has been read. The transport reads to the end before the origin can
// know that it is the end.
type requestBody struct {
	io.ReadCloser
	sent  atomic.Uint64
	ended atomic.Bool
	bad   atomic.Bool // the client's encoding of it makes no sense, or it broke off
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
	errNoResponse = errors.New("it closed the connection without an answer")
)

// lastHop obeys RFC 9110 section 7.6.2: an OPTIONS or TRACE whose Max-Forwards is 0 is answered and
// not forwarded, and one more than that is counted down.
func lastHop(w http.ResponseWriter, r *http.Request) bool {
	left, err := strconv.Atoi(r.Header.Get("Max-Forwards"))
	if err != nil || r.Method != http.MethodOptions && r.Method != http.MethodTrace {
		return false
	}
	if left > 0 {
		r.Header.Set("Max-Forwards", strconv.Itoa(left-1))
		return false
	}
	if r.Method == http.MethodTrace {
		http.Error(w, "TRACE ends here", http.StatusMethodNotAllowed)
	}
	return true
}

// rewrite makes the request to the origin the one that the client would have sent itself.
// ReverseProxy has removed the hop-by-hop headers; what else it changes, for the sake of servers
// that it stands before, is put back.
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

// originPath is the path to ask an origin for, as it was written, or empty if net/url has to spell
// it.
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
		return "" // URL.RequestURI would take it for an authority
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

// forwardFailed answers a request that got no response to pass on.
func (f *front) forwardFailed(w http.ResponseWriter, r *http.Request, err error) {
	fw := w.(*forwardWriter)
	if switched, ok := errors.AsType[*switchedError](err); ok {
		f.switchProtocols(fw, switched.res)
		return
	}
	fw.failure = err
	_, isDial := errors.AsType[*dialError](err)
	switch {
	case isDial:
	case fw.body.bad.Load():
		http.Error(w, "reading the request: "+sentence(err), http.StatusBadRequest)
		return
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = &dialError{r.URL.Host, errNoResponse}
	default:
		err = &dialError{r.URL.Host, err}
	}
	http.Error(w, sentence(err), failures[reasonOf(err)].http)
}

// switchProtocols makes a tunnel of a connection that was upgraded.
func (f *front) switchProtocols(fw *forwardWriter, res *http.Response) {
	upstream := res.Body.(io.ReadWriteCloser) // so net/http promises for this status
	res.Body = nil
	stripProxyHeaders(res.Header)
	c := fw.conn
	if !f.hijack(c, fw.ResponseWriter) || !c.attach(upstream) {
		upstream.Close()
		return
	}
	if err := res.Write(c); err != nil {
		fw.failure = err
		c.Close()
		return
	}
	fw.switched = true
	c.tunnel(fw.entry, upstream, new(atomic.Uint64), new(atomic.Uint64)) // the originConn counts for the Server
}

// forwardWriter corrects what a response suffers between ReverseProxy and net/http.
type forwardWriter struct {
	http.ResponseWriter
	conn     *conn
	proto    interface{ ProtoAtLeast(major, minor int) bool }
	body     *requestBody
	entry    entry
	failure  error
	switched bool // the tunnel writes the entry
}

// Unwrap is for http.ResponseController.
func (w *forwardWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *forwardWriter) WriteHeader(code int) {
	// "A server MUST NOT send a 1xx response to an HTTP/1.0 client" (RFC 9110 section 15.2). net/http
	// sends 100 (Continue) when the transport begins to read the body, so the origin's, which made it
	// begin, would be a second one.
	if code < 200 && (code == http.StatusContinue || !w.proto.ProtoAtLeast(1, 1)) {
		return
	}
	if h := w.Header(); code >= 200 && h["Content-Type"] == nil {
		h["Content-Type"] = nil // an origin that does not say is not guessed for
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *forwardWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.entry.received += uint64(n)
	return n, err
}

func (w *forwardWriter) log() {
	if !w.switched {
		w.entry.sent = w.body.sent.Load()
		w.conn.log(w.entry, w.failure)
	}
}
