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
	"unicode"

	"ginnel/internal/key"
	"ginnel/internal/wsstream"
)

// This file is the client's end of the upgrade to a channel (control specification, sections 2.1
// and 2.8).

const (
	maxResponseHead = 16 << 10
	maxExcerpt      = 200 // of a text that a server gave as its reason
)

var (
	errHeadTooLong = errors.New("answer to the upgrade is too long")
	errWrongSwitch = errors.New("server switched to another protocol")
	// errHungUp is all that some servers say to a version, or a handshake, that they do not like
	// (section 2.7).
	errHungUp = errors.New("server hung up on the handshake")
)

// upgradeError is an answer other than 101: what is there is no coordination server, or something
// stands before it.
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

// opening is what a client says to open a channel.
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

// open upgrades conn, which is closed if that fails. A context bounds it, and not the channel.
func (o *opening) open(ctx context.Context, conn net.Conn) (*Conn, error) {
	return o.handshake(ctx, conn, o.native)
}

// openWebSocket is open for servers behind something that lets only WebSockets through.
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
	in.left = -1 // what follows has limits of its own
	return i.complete(conn, br)
}

// complete reads the response, and has the channel go on with what br has read beyond it.
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

// readSwitch reads the HTTP answer, which has to be 101.
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

// excerpt reads the beginning of a text and makes one printable line of it.
func excerpt(r io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(r, maxExcerpt))
	return printable(string(text))
}

// printable makes one line of a text from outside.
func printable(text string) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) })
	return strings.Join(words, " ")
}

// headReader ends a head that is too long. A negative limit is none.
type headReader struct {
	src  io.Reader
	left int
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
	u.Scheme = "http" // TLS is there already
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

// webSocketQuery carries an initiation where headers cannot be set.
func webSocketQuery(initiation []byte) string {
	return url.Values{headerHandshake: {base64.StdEncoding.EncodeToString(initiation)}}.Encode()
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
