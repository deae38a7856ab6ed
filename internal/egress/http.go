package egress

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

const (
	maxHeader = 64 << 10
	// maxBody is how much of a refusal's body is read, and maxExcerpt how much of its text is shown.
	maxBody    = 4 << 10
	maxExcerpt = 200
	// bodyTimeout bounds the wait for that body: it is an explanation, not worth the whole time of a
	// dial.
	bodyTimeout = time.Second
)

var errHeaderSize = fmt.Errorf("header is larger than %d KiB", maxHeader>>10)

// connectHTTP asks for a tunnel (RFC 9110, section 9.3.6). Like net/http, it takes a status of 200
// for success and no other.
func connectHTTP(conn net.Conn, user *url.Userinfo, to target) (net.Conn, error) {
	if err := writeConnect(conn, user, to); err != nil {
		return nil, fmt.Errorf("sending CONNECT: %w", err)
	}
	in := &headerReader{conn: conn, left: maxHeader}
	br := bufio.NewReader(in)
	resp, err := readResponse(br)
	if err != nil {
		if in.err == nil {
			in.err = errors.New(hide(err.Error(), user)) // not HTTP, but words of the proxy
		}
		return nil, fmt.Errorf("reading answer to CONNECT: %w", in.err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s", ErrRefused, hide(explain(conn, resp), user))
	}
	first, err := br.Peek(br.Buffered())
	if err != nil {
		return nil, err
	}
	return withFirst(conn, first), nil
}

// headerReader reads an answer of bounded size and keeps the error that ended it, to tell a broken
// conn from an answer that is not HTTP.
type headerReader struct {
	conn net.Conn
	left int
	err  error
}

func (r *headerReader) Read(b []byte) (n int, err error) {
	if r.left == 0 {
		r.err = errHeaderSize
		return 0, r.err
	}
	n, err = r.conn.Read(b[:min(len(b), r.left)])
	r.left -= n
	if err == io.EOF {
		r.err = io.ErrUnexpectedEOF
	} else if err != nil {
		r.err = err
	}
	return n, err
}

// writeConnect writes the request in one piece, as some proxies would like it.
func writeConnect(conn net.Conn, user *url.Userinfo, to target) error {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ginnel\r\n", to, to)
	if user != nil {
		fmt.Fprintf(&b, "Proxy-Authorization: Basic %s\r\n", credentials(user))
	}
	b.WriteString("\r\n")
	_, err := io.WriteString(conn, b.String())
	return err
}

// credentials are those of RFC 7617.
func credentials(user *url.Userinfo) string {
	password, _ := user.Password()
	return base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
}

// readResponse returns the final response; RFC 9110, section 15.2, allows any number of 1xx before
// it, of which 101 would be final.
func readResponse(br *bufio.Reader) (*http.Response, error) {
	request := &http.Request{Method: http.MethodConnect}
	for {
		resp, err := http.ReadResponse(br, request)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// explain returns the status line, what the proxy accepts for authentication, and how the body
// begins.
func explain(conn net.Conn, resp *http.Response) string {
	text := resp.Status
	if resp.StatusCode == http.StatusProxyAuthRequired {
		var schemes []string
		for _, challenge := range resp.Header.Values("Proxy-Authenticate") {
			scheme, _, _ := strings.Cut(challenge, " ")
			schemes = append(schemes, scheme)
		}
		text += " (it takes " + strings.Join(schemes, ", ") + ")"
	}
	conn.SetReadDeadline(time.Now().Add(bodyTimeout)) // a context that ends closes the conn, and this wait with it
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if len(body) > 0 {
		text += ": " + string(body)
	}
	return text
}

// hide removes from text, which the proxy wrote, what it may have repeated of the credentials, and
// what a terminal would act upon; and it shortens it.
func hide(text string, user *url.Userinfo) string {
	if user == nil {
		return excerpt(text)
	}
	password, ok := user.Password()
	_, encoded, _ := strings.Cut(user.String(), ":")
	if !ok { // a token in the place of the user
		password, encoded = user.Username(), user.String()
	}
	for _, secret := range []string{credentials(user), encoded, url.QueryEscape(password), password} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "...")
		}
	}
	return excerpt(text)
}

// excerpt returns the start of a text in one line.
func excerpt(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
	text = strings.Join(strings.Fields(text), " ")
	for i := range text { // a cut between characters
		if i > maxExcerpt {
			return text[:i] + "..."
		}
	}
	return text
}
