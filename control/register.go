package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ginnel/internal/safetext"
)

const (
	registerPath = "/machine/register"
	mapPath      = "/machine/map"
	maxAnswer    = 1 << 20
	maxRetry     = time.Hour
)

var (
	errAnswerSize = errors.New("answer is too long")
	errAuthURL    = errors.New("address of the login page is not an http or https URL that can be shown")
	errNoAnswer   = fmt.Errorf("no answer within %v", requestTimeout)
)

// Register sends a registration (control specification, section 4). That the user has to visit
// AuthURL, or that the node key has expired, is told by the response and is not an error. A request
// with Followup is answered when the user has logged in; only ctx bounds that wait. Errors are a
// *RefusedError if the server gave a reason, a *RateLimitError, or one of this package's variables.
func (c *Client) Register(ctx context.Context, req RegisterRequest) (*RegisterResponse, error) {
	begin := c.begin
	if req.Followup != "" {
		begin = c.calls.begin // the answer waits for a person
	}
	ctx, release, err := begin(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	req.Version = CapabilityVersion
	resp, err := c.post(ctx, registerPath, &req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return nil, unlessEnded(ctx, fmt.Errorf("reading the answer to a registration: %w", err))
	}
	var answer RegisterResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, unreachable(fmt.Errorf("reading the answer to a registration: %w", err))
	}
	if answer.Error != "" {
		return nil, &RefusedError{safetext.Line(answer.Error, maxMessage)}
	}
	if !isPageURL(answer.AuthURL) {
		return nil, unreachable(errAuthURL)
	}
	return &answer, nil
}

// isPageURL reports whether text is empty or a URL that can be shown to people as the address of a
// page.
func isPageURL(text string) bool {
	u, err := url.Parse(text)
	return text == "" || err == nil && (u.Scheme == "https" || u.Scheme == "http") && safetext.IsLine(text)
}

// logoutTime is the time in the past that tailscaled sends as the expiry of a logout.
var logoutTime = time.Unix(123, 0).UTC()

// Logout asks the server to expire or delete the node with req.NodeKey.
func (c *Client) Logout(ctx context.Context, req RegisterRequest) error {
	req.Expiry, req.Auth, req.Followup = logoutTime, nil, ""
	_, err := c.Register(ctx, req)
	return err
}

// Update sends the node's state to the server. req must hold all of it every time (section 5.11).
func (c *Client) Update(ctx context.Context, req MapRequest) error {
	ctx, release, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	req.Version, req.Compress = CapabilityVersion, CompressZstd
	req.Stream, req.OmitPeers, req.ReadOnly = false, true, false
	resp, err := c.post(ctx, mapPath, &req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// begin starts a call that the server must answer within requestTimeout.
func (c *Client) begin(ctx context.Context) (context.Context, func(), error) {
	ctx, release, err := c.calls.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, unreachable(errNoAnswer))
	return ctx, func() { cancel(); release() }, nil
}

// post sends a document through the channel. Any status other than 200 is an error.
func (c *Client) post(ctx context.Context, path string, doc any) (*http.Response, error) {
	body, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encoding a request: %w", err)
	}
	resp, _, err := c.do(ctx, http.MethodPost, at(c.url, path), body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, statusError(path, resp)
}

// do sends a request through the channel; the scheme and host of u do not matter (section 3). It
// returns the channel with an error too, if one was open.
func (c *Client) do(ctx context.Context, method string, u *url.URL, body []byte) (*http.Response, *channel, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("making a request: %w", err)
	}
	req.URL.Scheme = "https" // also if the channel runs over plain HTTP
	req.Header.Set("User-Agent", c.cfg.userAgent())
	ch, err := c.openChannel(ctx)
	if err != nil {
		return nil, nil, ended(ctx, err)
	}
	resp, err := ch.h2.RoundTrip(req)
	if err != nil {
		return nil, ch, unlessEnded(ctx, fmt.Errorf("sending %s: %w", u.Path, err))
	}
	return resp, ch, nil
}

// unlessEnded wraps err in ErrUnreachable, or returns the cause of ctx if ctx has ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return unreachable(err)
}

// statusError returns the error for a status other than 200 (sections 4.2, 4.4 and 9.1).
func statusError(path string, resp *http.Response) error {
	e := &StatusError{Path: path, Code: resp.StatusCode, Text: excerpt(resp.Body)}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		return &RateLimitError{retryAfter(resp.Header.Get("Retry-After"), time.Now(), rand.Float64())}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.kind = ErrUnauthorized
	case code == http.StatusNotFound && path == mapPath:
		e.kind = ErrUnknownNode
	case code == http.StatusBadRequest && path == registerPath:
		e.kind = ErrVersionRefused // the only reason for a 400 here
	}
	return e
}

// retryAfter parses a Retry-After header: seconds or a date. If that fails, or the wait is longer
// than maxRetry, it returns five to ten seconds.
func retryAfter(text string, now time.Time, random float64) time.Duration {
	after := time.Duration(-1)
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		after = max(0, date.Sub(now))
	}
	if after < 0 || after > maxRetry {
		return 5*time.Second + time.Duration(random*float64(5*time.Second))
	}
	return after
}

// readAnswer reads a whole body of at most maxAnswer bytes.
func readAnswer(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		return nil, errAnswerSize
	}
	return b, err
}
