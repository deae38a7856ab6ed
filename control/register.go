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
)

const (
	registerPath = "/machine/register"
	mapPath      = "/machine/map"
	maxAnswer    = 1 << 20
	maxRetry     = time.Hour
)

var (
	errAnswerSize = errors.New("answer is too long")
	errAuthURL    = errors.New("the page to log in at has no address that can be shown")
	errNoAnswer   = fmt.Errorf("no answer within %v", requestTimeout)
)

// Register sends a registration (control specification, section 4). A response may say that the
// user has to visit AuthURL, or that the node key has expired; neither is an error. With Followup
// the server answers when the user has done so, which only ctx bounds. Errors are a *RefusedError
// if the server said why it refuses, a *RateLimitError, or those of this package's variables.
func (c *Client) Register(ctx context.Context, req RegisterRequest) (*RegisterResponse, error) {
	ctx, release, err := c.begin(ctx, req.Followup == "")
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
		return nil, &RefusedError{printable(answer.Error)}
	}
	if !isPageURL(answer.AuthURL) {
		return nil, unreachable(errAuthURL)
	}
	return &answer, nil
}

// isPageURL accepts what can be shown to people as the address of a page, and nothing at all.
func isPageURL(text string) bool {
	u, err := url.Parse(text)
	return text == "" || err == nil && (u.Scheme == "https" || u.Scheme == "http") && printable(text) == text
}

// logoutTime is a time in the past, the one that others use too.
var logoutTime = time.Unix(123, 0).UTC()

// Logout has the server forget req.NodeKey, or let it expire.
func (c *Client) Logout(ctx context.Context, req RegisterRequest) error {
	req.Expiry, req.Auth, req.Followup = logoutTime, nil, ""
	_, err := c.Register(ctx, req)
	return err
}

// Update tells the server the node's state; it needs to be complete every time (section 5.11).
func (c *Client) Update(ctx context.Context, req MapRequest) error {
	ctx, release, err := c.begin(ctx, true)
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

// begin starts a call. All but those that wait for people are answered soon or not at all.
func (c *Client) begin(ctx context.Context, soon bool) (context.Context, func(), error) {
	ctx, release, err := c.calls.begin(ctx)
	if err != nil || !soon {
		return ctx, release, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, unreachable(errNoAnswer))
	return ctx, func() { cancel(); release() }, nil
}

// post sends a document through the channel. The answer has status 200.
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

// do sends a request through the channel, whatever scheme and host u has (section 3). The channel
// is returned with errors too, if there was one.
func (c *Client) do(ctx context.Context, method string, u *url.URL, body []byte) (*http.Response, *channel, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("making a request: %w", err)
	}
	req.URL.Scheme = "https" // whatever the channel runs over
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

// unlessEnded makes err an ErrUnreachable unless it is only that ctx has ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return unreachable(err)
}

// statusError explains a status other than 200 (sections 4.2, 4.4 and 9.1).
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
		e.kind = ErrVersionRefused // the only one there is
	}
	return e
}

// retryAfter reads the header: seconds or a date. Without a usable one it is five to ten seconds.
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

// readAnswer reads all of a short answer.
func readAnswer(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		return nil, errAnswerSize
	}
	return b, err
}
