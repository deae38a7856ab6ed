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

	"ginnel/internal/safetext"
)

const (
	maxHeader   = 64 << 10
	maxBody     = 4 << 10     // bytes that are read of the body of a refusal
	maxExcerpt  = 200         // bytes that are shown of a text that the proxy wrote
	bodyTimeout = time.Second // for that body: an explanation is not worth the whole time of a dial
)

var errHeaderSize = fmt.Errorf("header is larger than %d KiB", maxHeader>>10)

// connectHTTP asks for a tunnel (RFC 9110, section 9.3.6). Like net/http, it accepts only status
// 200 as success.
func connectHTTP(conn net.Conn, user *url.Userinfo, to target) (net.Conn, error) {
	if err := writeConnect(conn, user, to); err != nil {
		return nil, fmt.Errorf("sending CONNECT: %w", err)
	}
	in := &headerReader{conn: conn, left: maxHeader}
	br := bufio.NewReader(in)
	resp, err := readResponse(br)
	if err != nil {
		if in.err == nil {
			in.err = errors.New(redact(err.Error(), user)) // the answer is not HTTP, and err quotes it
		}
		return nil, fmt.Errorf("reading answer to CONNECT: %w", in.err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s", ErrRefused, redact(explain(conn, resp), user))
	}
	first, err := br.Peek(br.Buffered())
	if err != nil {
		return nil, err
	}
	return withFirst(conn, first), nil
}

// headerReader reads an answer of at most left bytes. It keeps the error that ended the reading, so
// that a broken connection can be told from an answer that is not HTTP.
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

// writeConnect writes the request in one call, because some proxies expect it in one segment.
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

// credentials encodes user and password for Basic authentication (RFC 7617).
func credentials(user *url.Userinfo) string {
	password, _ := user.Password()
	return base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
}

// readResponse returns the final response. Any number of 1xx responses may come before it (RFC
// 9110, section 15.2), except 101, which is final itself.
func readResponse(br *bufio.Reader) (*http.Response, error) {
	request := &http.Request{Method: http.MethodConnect}
	for {
		resp, err := http.ReadResponse(br, request)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// explain returns the status line, the authentication schemes that the proxy offers after a 407,
// and the beginning of the body.
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
	conn.SetReadDeadline(time.Now().Add(bodyTimeout)) // the end of the dial's context also ends this wait: it closes conn
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if len(body) > 0 {
		text += ": " + string(body)
	}
	return text
}

// redact returns the beginning of a text that the proxy wrote, safe to show, with "..." for every
// form of our credentials that the proxy may have repeated.
func redact(text string, user *url.Userinfo) string {
	if user == nil {
		return safetext.Line(text, maxExcerpt)
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
	return safetext.Line(text, maxExcerpt)
}
