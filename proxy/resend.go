package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// send makes a request of an origin. An origin may close a kept connection at the moment when the
// next request is under way to it. Then the request is sent again, on a new connection, if it is
// safe to do so (RFC 9110, section 9.2.2). http.Transport does that for fewer methods.
func send(t *http.Transport, r *http.Request) (*http.Response, error) {
	for {
		var a attempt
		res, err := t.RoundTrip(a.of(r))
		if err == nil || !a.mayRepeat(r) {
			return res, err
		}
	}
}

// attempt is one sending of a request.
type attempt struct {
	kept     atomic.Bool // it went over a connection that an earlier request had used
	answered atomic.Bool // something of an answer has come
	body     *attemptBody
}

// of returns r with a body that does not outlive the attempt.
func (a *attempt) of(r *http.Request) *http.Request {
	out := r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { a.kept.Store(info.Reused) },
		GotFirstResponseByte: func() { a.answered.Store(true) },
	}))
	if r.Body != nil && r.Body != http.NoBody {
		a.body = &attemptBody{src: r.Body}
		out.Body = a.body
	}
	return out
}

// mayRepeat reports whether an attempt that has failed may be followed by another. It ends the
// attempt.
func (a *attempt) mayRepeat(r *http.Request) bool {
	return isIdempotent(r.Method) && a.kept.Load() && !a.answered.Load() && a.body.end() == whole && r.Context().Err() == nil
}

// isIdempotent reports whether it does not matter if a request arrives twice.
func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// bodyState is what an attempt has left of a body.
type bodyState int

const (
	whole bodyState = iota
	begun           // some of it was read, or may have been
	over            // the attempt has ended
)

// attemptBody is the body of a request during one attempt. The transport may read it, and close it,
// after RoundTrip has returned; by then it may belong to another attempt.
type attemptBody struct {
	src io.Reader // closed by ReverseProxy

	mu    sync.Mutex
	state bodyState
}

var errAttemptOver = errors.New("proxy: reading the body of a request that was given up")

// Read implements io.Reader.
func (b *attemptBody) Read(p []byte) (int, error) {
	if b.begin() == over {
		return 0, errAttemptOver
	}
	return b.src.Read(p)
}

func (b *attemptBody) begin() bodyState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == whole {
		b.state = begun
	}
	return b.state
}

// end ends the attempt and returns what it has left; a body that there is not is whole.
func (b *attemptBody) end() bodyState {
	if b == nil {
		return whole
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.state
	b.state = over
	return left
}

// Close implements io.Closer.
func (b *attemptBody) Close() error { return nil }
