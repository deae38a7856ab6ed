package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

// watchdogTimeout is the longest time without a frame (control specification, section 9.1).
const watchdogTimeout = 120 * time.Second

var (
	errSilent = fmt.Errorf("%w: no map response within %v", ErrUnreachable, watchdogTimeout)
	errEnded  = errors.New("server ended the stream")
)

// Poll opens a map stream and yields a snapshot of the network map for each frame that changes it.
// Unless the caller stops first, the sequence ends with one error: ErrUnknownNode, ErrUnauthorized,
// or an ErrUnreachable if the stream broke. The caller reconnects, and keeps the last snapshot
// until the new stream yields one. A node should have one stream at a time, and req should hold the
// node's whole state (section 5.1).
func (c *Client) Poll(ctx context.Context, req MapRequest) iter.Seq2[*NetMap, error] {
	return func(yield func(*NetMap, error) bool) {
		if err := c.poll(ctx, req, yield); err != nil {
			yield(nil, err)
		}
	}
}

// poll returns nil if yield returned false.
func (c *Client) poll(ctx context.Context, req MapRequest, yield func(*NetMap, error) bool) error {
	ctx, release, err := c.calls.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(watchdogTimeout, func() { cancel(errSilent) })
	defer watchdog.Stop()

	req.Version, req.Compress = CapabilityVersion, CompressZstd
	req.Stream, req.KeepAlive, req.OmitPeers, req.ReadOnly = true, true, false, false
	body, ch, err := c.openStream(ctx, &req)
	if err != nil {
		if ch != nil && context.Cause(ctx) == errSilent {
			c.drop(ch)
		}
		return err
	}
	defer body.Close()
	defer cancel(nil) // runs before body.Close, which would otherwise wait for the server
	s := stream{frames: frameReader{src: body, compress: req.Compress}}
	for {
		next, ping, err := s.next()
		if err != nil {
			return c.streamError(ctx, ch, err)
		}
		watchdog.Stop() // the time that yield takes does not count
		if ping != nil {
			c.answerPing(ping)
		}
		if next != nil && !yield(next, nil) {
			return nil
		}
		watchdog.Reset(watchdogTimeout)
	}
}

// openStream sends the request. It returns the channel with an error too, if one was open.
func (c *Client) openStream(ctx context.Context, req *MapRequest) (io.ReadCloser, *channel, error) {
	doc, err := json.Marshal(req)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a map request: %w", err)
	}
	resp, ch, err := c.do(ctx, http.MethodPost, at(c.url, mapPath), doc)
	if err != nil {
		return nil, ch, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, ch, statusError(mapPath, resp)
	}
	return resp.Body, ch, nil
}

// streamError returns the error for the end of a stream. It closes the channel unless the stream
// ended in an orderly way or the caller ended it.
func (c *Client) streamError(ctx context.Context, ch *channel, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == errSilent:
		c.drop(ch)
		return cause
	case cause != nil:
		return cause
	case err == io.EOF && ch.usable():
		return unreachable(ErrStreamEnded)
	case err == io.EOF:
		return unreachable(errEnded)
	case errors.Is(err, errStream):
		return err
	}
	c.drop(ch)
	return unreachable(fmt.Errorf("reading the network map: %w", err))
}

// errStream: the contents of a stream are invalid. It is not an ErrUnreachable.
var errStream = errors.New("control: server sends no valid network map")

// stream is the state of one map stream.
type stream struct {
	frames frameReader
	m      *NetMap // after the last frame; nil before the first
}

// next reads a frame and applies it. The map is nil if the frame does not change it.
func (s *stream) next() (*NetMap, *PingRequest, error) {
	doc, err := s.frames.next()
	switch {
	case errors.Is(err, errFrameSize) || errors.Is(err, errDocumentSize) || errors.Is(err, errZstd):
		return nil, nil, fmt.Errorf("%w: %w", errStream, err)
	case err != nil:
		return nil, nil, err
	}
	var r MapResponse
	if err := json.Unmarshal(doc, &r); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errStream, err)
	}
	m, err := s.m.Apply(&r, time.Now())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errStream, err)
	}
	if m == s.m {
		return nil, r.PingRequest, nil
	}
	s.m = m
	return m, r.PingRequest, nil
}
