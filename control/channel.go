package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ginnel/internal/httpconn"
	"ginnel/internal/neterr"
	"ginnel/internal/safetext"
	"ginnel/key"
)

// This file opens a client's channel (control specification, sections 1.2, 1.4 and 3).

const (
	dialTimeout  = 10 * time.Second
	maxServerKey = 64 << 10
)

var (
	errDialTimeout = fmt.Errorf("no answer within %v", dialTimeout)
	errNoServerKey = errors.New("server gives no key: is it a coordination server?")
)

// channel is an HTTP/2 connection inside a Conn.
type channel struct {
	conn *Conn
	h2   *http.ClientConn
}

// newChannel starts HTTP/2 on conn. It closes conn if it fails.
func newChannel(ctx context.Context, conn *Conn) (*channel, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	// The scheme of requests is https (section 3). DialTLSContext therefore returns the channel
	// itself: no TLS is added.
	dial := httpconn.DialOnce(&earlyConn{Conn: conn})
	t := &http.Transport{DialTLSContext: dial, Protocols: &protocols, DisableCompression: true,
		MaxResponseHeaderBytes: maxH2Headers, HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true,
			SendPingTimeout: channelIdle, PingTimeout: channelPing, WriteByteTimeout: channelIdle}}
	ch := &channel{conn: conn}
	err := bounded(ctx, conn, func() (err error) {
		ch.h2, err = t.NewClientConn(ctx, "https", "control:443")
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting HTTP/2: %w", err)
	}
	return ch, nil
}

// usable reports whether ch accepts new requests. After a GOAWAY of the server it does not,
// although requests in flight go on.
func (ch *channel) usable() bool {
	return ch.h2.Err() == nil && (ch.h2.Available() > 0 || ch.h2.InFlight() > 0)
}

func (ch *channel) close() {
	ch.conn.Close()
	ch.h2.Close()
}

// ServerKey returns the server's public key: the pinned one, or the one that the server gave when
// it was asked first. Callers should store it and pin it from then on.
func (c *Client) ServerKey(ctx context.Context) (key.MachinePublic, error) {
	ctx, release, err := c.calls.begin(ctx)
	if err != nil {
		return key.MachinePublic{}, err
	}
	defer release()
	k, err := c.serverKey(ctx)
	return k, ended(ctx, err)
}

func (c *Client) serverKey(ctx context.Context) (key.MachinePublic, error) {
	c.mu.Lock()
	known := c.server
	c.mu.Unlock()
	if !known.IsZero() {
		return known, nil
	}
	k, err := c.fetchKey(ctx)
	if err != nil {
		return k, unreachable(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server.IsZero() {
		c.server = k
	}
	return c.server, nil
}

// fetchKey asks the server for its key.
func (c *Client) fetchKey(ctx context.Context) (k key.MachinePublic, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	u := at(c.url, "/key")
	u.RawQuery = url.Values{"v": {strconv.Itoa(CapabilityVersion)}}.Encode()
	resp, err := c.doWeb(ctx, http.MethodGet, u, nil)
	if err != nil {
		return k, fmt.Errorf("asking for the server's key: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return k, fmt.Errorf("asking for the server's key: %s answers %q %s", c.url, resp.Status,
			safetext.Line(resp.Header.Get("Location"), maxExcerpt))
	}
	var keys ServerKeys
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxServerKey))
	if err != nil {
		return k, fmt.Errorf("asking for the server's key: %w", ended(ctx, err))
	}
	if json.Unmarshal(body, &keys) != nil || keys.PublicKey.IsZero() {
		return k, errNoServerKey
	}
	return keys.PublicKey, nil
}

// doWeb sends a request outside the channel. Redirects are not followed.
func (c *Client) doWeb(ctx context.Context, method string, u *url.URL, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.cfg.userAgent())
	resp, err := c.web.Do(req)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return resp, ended(ctx, err)
}

// ended returns err, or the cause of ctx if ctx has ended.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.cfg.dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", addr, neterr.Cause(addr, err))
	}
	return conn, nil
}

func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dialTCP(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{}
	if c.cfg.TLS != nil {
		cfg = c.cfg.TLS.Clone()
	}
	host, _, _ := net.SplitHostPort(addr)
	cfg.ServerName = host
	cfg.NextProtos = nil // an upgrade needs HTTP/1.1
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, c.tlsError(ctx, addr, host, cfg, err)
	}
	return t, nil
}

// dialServer connects to the server.
func (c *Client) dialServer(ctx context.Context) (net.Conn, error) {
	port := c.url.Port()
	if c.url.Scheme == "http" {
		if port == "" {
			port = "80"
		}
		return c.dialTCP(ctx, "tcp", net.JoinHostPort(c.url.Hostname(), port))
	}
	if port == "" {
		port = "443"
	}
	return c.dialTLS(ctx, "tcp", net.JoinHostPort(c.url.Hostname(), port))
}

// openChannel returns the open channel, or opens one. Only one caller at a time dials; the others
// wait for it.
func (c *Client) openChannel(ctx context.Context) (*channel, error) {
	select {
	case c.dialc <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.dialc }()
	if ch := c.usable(); ch != nil {
		return ch, nil
	}
	server, err := c.serverKey(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(ctx, server)
	if err != nil {
		return nil, err
	}
	ch, err := newChannel(ctx, conn)
	if err != nil {
		return nil, unlessEnded(ctx, err)
	}
	c.mu.Lock()
	c.channel = ch
	c.mu.Unlock()
	if ctx.Err() != nil { // Close may have run before c.channel was set
		c.drop(ch)
		return nil, context.Cause(ctx)
	}
	c.log.Debug("channel opened", "server", server, "local", conn.LocalAddr())
	return ch, nil
}

// usable returns the open channel, or nil. It closes one that accepts no more requests.
func (c *Client) usable() *channel {
	c.mu.Lock()
	ch := c.channel
	c.mu.Unlock()
	if ch != nil && !ch.usable() {
		c.drop(ch)
		return nil
	}
	return ch
}

// drop closes a channel. The next request opens another.
func (c *Client) drop(ch *channel) {
	c.mu.Lock()
	if c.channel == ch {
		c.channel = nil
	}
	c.mu.Unlock()
	ch.close()
}

// connect dials, upgrades and completes the Noise handshake.
func (c *Client) connect(ctx context.Context, server key.MachinePublic) (*Conn, error) {
	o := &opening{url: c.url, userAgent: c.cfg.userAgent(), machine: c.cfg.MachineKey, server: server,
		version: CapabilityVersion}
	conn, err := c.attempt(ctx, o.open)
	if refused, ok := errors.AsType[*upgradeError](err); ok {
		c.log.Info("channel upgrade refused, trying WebSocket", "err", refused)
		var wsErr error
		if conn, wsErr = c.attempt(ctx, o.openWebSocket); wsErr == nil {
			err = nil
		}
	}
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, c.diagnose(ctx, server, err)
}

// attempt dials the server and calls open with the connection.
func (c *Client) attempt(ctx context.Context, open func(context.Context, net.Conn) (*Conn, error)) (*Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	conn, err := c.dialServer(ctx)
	if err != nil {
		return nil, ended(ctx, err)
	}
	return open(ctx, conn)
}

// diagnose finds out why a handshake failed. A refused version and a changed server key look the
// same (section 2.7), so it asks the server for its key again.
func (c *Client) diagnose(ctx context.Context, server key.MachinePublic, err error) error {
	frame, said := errors.AsType[*errorFrame](err)
	refused := said || errors.Is(err, errHungUp)
	if !refused && !errors.Is(err, errUnopenable) {
		return unreachable(err)
	}
	now, kerr := c.fetchKey(ctx)
	switch {
	case kerr == nil && now != server:
		return &KeyChangedError{Known: server, Now: now}
	case kerr != nil || !refused:
		return unreachable(err)
	case said:
		frame = &errorFrame{safetext.Line(frame.text, maxErrorText)}
		return fmt.Errorf("%w (%d): %w", ErrVersionRefused, CapabilityVersion, frame)
	}
	return fmt.Errorf("%w (%d), or this machine: %w", ErrVersionRefused, CapabilityVersion, err)
}
