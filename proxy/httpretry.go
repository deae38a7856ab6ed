package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// roundTrip sends a request to an origin server. The origin may close a reused connection while the
// request is on its way. Then the request is sent again on a new connection, if its method is
// idempotent and its body was not read (RFC 9110 section 9.2.2). http.Transport itself retries
// fewer methods.
func roundTrip(t *http.Transport, r *http.Request) (*http.Response, error) {
	for {
		var a attempt
		res, err := t.RoundTrip(a.request(r))
		if err == nil || !a.mayRetry(r) {
			return res, err
		}
	}
}

// attempt is one attempt to send a request.
type attempt struct {
	reused   atomic.Bool // the connection had carried an earlier request
	answered atomic.Bool // the first byte of the response has arrived
	body     *attemptBody
}

// request returns a copy of r whose body can be read only during the attempt.
func (a *attempt) request(r *http.Request) *http.Request {
	out := r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { a.reused.Store(info.Reused) },
		GotFirstResponseByte: func() { a.answered.Store(true) },
	}))
	if r.Body != nil && r.Body != http.NoBody {
		a.body = &attemptBody{src: r.Body}
		out.Body = a.body
	}
	return out
}

// mayRetry ends a failed attempt and reports whether another may follow.
func (a *attempt) mayRetry(r *http.Request) bool {
	return isIdempotent(r.Method) && a.reused.Load() && !a.answered.Load() &&
		a.body.end() == bodyUnread && r.Context().Err() == nil
}

// isIdempotent reports whether a request that arrives twice has the same effect as one that arrives
// once (RFC 9110 section 9.2.2).
func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// bodyState is the state of the request body in an attempt.
type bodyState int

const (
	bodyUnread bodyState = iota
	bodyRead             // Read was called, so bytes may be consumed
	bodyEnded            // the attempt has ended
)

// attemptBody is the body of a request during one attempt. The transport may read and close it
// after RoundTrip has returned. By then the next attempt may use src, so reads fail once the
// attempt has ended.
type attemptBody struct {
	src io.Reader // ReverseProxy closes it

	mu    sync.Mutex
	state bodyState
}

var errAttemptEnded = errors.New("proxy: reading a request body after the end of its attempt")

// Read implements io.Reader.
func (b *attemptBody) Read(p []byte) (int, error) {
	if b.markRead() == bodyEnded {
		return 0, errAttemptEnded
	}
	return b.src.Read(p)
}

func (b *attemptBody) markRead() bodyState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == bodyUnread {
		b.state = bodyRead
	}
	return b.state
}

// end ends the attempt and returns the state of the body before that. A request without a body has
// a nil attemptBody, whose state is bodyUnread.
func (b *attemptBody) end() bodyState {
	if b == nil {
		return bodyUnread
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.state
	b.state = bodyEnded
	return before
}

// Close does nothing, because another attempt may still read src.
func (b *attemptBody) Close() error { return nil }
