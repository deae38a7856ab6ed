package control

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"ginnel/internal/safetext"
	"ginnel/internal/wsstream"
	"ginnel/key"
)

// This file is the client's end of the upgrade to a channel (control specification, sections 2.1
// and 2.8).

// Limits of text in bytes. The text of a server is shown to people, mostly on terminals.
const (
	maxResponseHead = 16 << 10 // read of the head of an HTTP response
	maxExcerpt      = 200      // shown of an error page, or of a name in a certificate
	maxMessage      = 4 << 10  // shown of a message that the server means for people
)

var (
	errHeadTooLong = errors.New("answer to the upgrade is too long")
	errWrongSwitch = errors.New("server switched to another protocol")
	// errHungUp: the server closed the connection without an answer to the initiation. Some servers
	// refuse a version or a key that way (section 2.7).
	errHungUp = errors.New("server closed the connection during the handshake")
)

// upgradeError is an HTTP status other than 101: no coordination server is at the URL, or a proxy
// in front of it does not pass the upgrade.
type upgradeError struct {
	status string
	text   string
}

func (e *upgradeError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("server answers the upgrade with %q", e.status)
	}
	return fmt.Sprintf("server answers the upgrade with %q: %s", e.status, e.text)
}

// opening holds what a client needs to open a channel.
type opening struct {
	url       *url.URL // the server's
	userAgent string
	machine   key.MachinePrivate
	server    key.MachinePublic
	version   uint16
}

// target returns the URL of the upgrade.
func (o *opening) target() *url.URL { return at(o.url, upgradePath) }

// at returns the URL of a path on the server.
func at(server *url.URL, path string) *url.URL {
	return &url.URL{Scheme: server.Scheme, Host: server.Host, Path: path}
}

// open upgrades conn to a channel. It closes conn if it fails. ctx bounds the handshake, not the
// channel.
func (o *opening) open(ctx context.Context, conn net.Conn) (*Conn, error) {
	return o.handshake(ctx, conn, o.native)
}

// openWebSocket is open inside a WebSocket, for servers behind a proxy that passes no other
// upgrade.
func (o *opening) openWebSocket(ctx context.Context, conn net.Conn) (*Conn, error) {
	return o.handshake(ctx, conn, func(conn net.Conn, i *initiator, msg []byte) (*Conn, error) {
		return o.webSocket(ctx, conn, i, msg)
	})
}

func (o *opening) handshake(ctx context.Context, conn net.Conn,
	upgrade func(net.Conn, *initiator, []byte) (*Conn, error)) (*Conn, error) {
	i, msg, err := initiate(o.machine, o.server, o.version, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	var c *Conn
	err = bounded(ctx, conn, func() (err error) {
		c, err = upgrade(conn, i, msg[:])
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening the channel: %w", err)
	}
	return c, nil
}

// appendRequest appends the HTTP request.
func (o *opening) appendRequest(b, initiation []byte) []byte {
	u := o.target()
	b = fmt.Appendf(b, "POST %s HTTP/1.1\r\nHost: %s\r\n", u.RequestURI(), u.Host)
	if o.userAgent != "" {
		b = fmt.Appendf(b, "User-Agent: %s\r\n", o.userAgent)
	}
	b = fmt.Appendf(b, "Content-Length: 0\r\nConnection: upgrade\r\nUpgrade: %s\r\n%s: ", upgradeProtocol, headerHandshake)
	b = base64.StdEncoding.AppendEncode(b, initiation)
	return append(b, "\r\n\r\n"...)
}

func (o *opening) native(conn net.Conn, i *initiator, msg []byte) (*Conn, error) {
	if _, err := conn.Write(o.appendRequest(nil, msg)); err != nil {
		return nil, err
	}
	in := &headReader{src: conn, left: maxResponseHead}
	br := bufio.NewReader(in)
	if err := readSwitch(br); err != nil {
		return nil, err
	}
	in.left = -1 // the handshake response and the records have limits of their own
	return i.complete(conn, br)
}

// complete reads the handshake response. What br has buffered beyond it are the first records.
func (i *initiator) complete(conn net.Conn, br *bufio.Reader) (*Conn, error) {
	response, err := readResponse(br)
	if err == io.EOF {
		return nil, errHungUp
	}
	if err != nil {
		return nil, err
	}
	s, err := i.finish(response)
	if err != nil {
		return nil, err
	}
	first, _ := br.Peek(br.Buffered())
	return newConn(conn, s, first), nil
}

// readSwitch reads the HTTP response, which must be 101 Switching Protocols.
func readSwitch(br *bufio.Reader) error {
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
	if err != nil {
		return noEOF(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return &upgradeError{resp.Status, excerpt(resp.Body)}
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), upgradeProtocol) {
		return errWrongSwitch
	}
	return nil
}

// excerpt reads the beginning of a body and returns it as one line that is safe to show.
func excerpt(r io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(r, maxExcerpt))
	return safetext.Line(string(text), maxExcerpt)
}

// headReader reads at most left more bytes, and then fails.
type headReader struct {
	src  io.Reader
	left int // negative: no limit
}

func (r *headReader) Read(p []byte) (int, error) {
	if r.left < 0 {
		return r.src.Read(p)
	}
	if r.left == 0 {
		return 0, errHeadTooLong
	}
	n, err := r.src.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

func (o *opening) webSocket(ctx context.Context, conn net.Conn, i *initiator, msg []byte) (*Conn, error) {
	u := o.target()
	u.Scheme = "http" // conn is TLS already if the server's URL is https
	u.RawQuery = webSocketQuery(msg)
	wc, err := wsstream.Dial(ctx, conn, wsstream.DialConfig{
		URL: u.String(), Header: http.Header{"User-Agent": {o.userAgent}}, Subprotocol: upgradeProtocol,
		MaxHead: maxResponseHead, MaxMessage: wsstream.MaxMessage,
	})
	if err != nil {
		return nil, err
	}
	return i.complete(wc, bufio.NewReader(wc))
}

// webSocketQuery returns the query that carries the initiation, because a WebSocket client in a
// browser cannot set headers (section 2.8).
func webSocketQuery(initiation []byte) string {
	return url.Values{headerHandshake: {base64.StdEncoding.EncodeToString(initiation)}}.Encode()
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
