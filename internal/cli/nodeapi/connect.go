package nodeapi

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

	"ginnel/configs"
)

// maxRefusal bounds what is read of a proxy's refusal, in bytes.
const maxRefusal = 4 << 10

// tunnel is a connection to a destination in the mesh. Read begins with the bytes that came right
// after the proxy's answer.
type tunnel struct {
	net.Conn
	r *bufio.Reader
}

func (t *tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

// ReadFrom implements io.ReaderFrom, so that the system can copy from a file to the socket.
func (t *tunnel) ReadFrom(r io.Reader) (int64, error) { return io.Copy(t.Conn, r) }

// CloseWrite sends the end of the stream.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Connect connects to target, host:port, through the node. A refusal is an *Error. ctx bounds only
// the time until the connection is made.
func (a *Client) Connect(ctx context.Context, target string) (*tunnel, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the node at %s: %w", a.where, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	t, err := a.askFor(c, target)
	if !stop() && err == nil {
		err = ctx.Err() // and the connection is closed, or about to be
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connecting to %s: %w", target, ctx.Err())
		}
		return nil, err
	}
	return t, nil
}

// askFor asks the proxy on c for a connection to target.
func (a *Client) askFor(c net.Conn, target string) (*tunnel, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target,
		Header: make(http.Header)}
	if a.auth != (configs.ProxyAuth{}) {
		credentials := base64.StdEncoding.EncodeToString([]byte(a.auth.User + ":" + a.auth.Password))
		req.Header.Set("Proxy-Authorization", "Basic "+credentials)
	}
	if err := req.Write(c); err != nil {
		return nil, fmt.Errorf("asking the node at %s: %w", a.where, err)
	}
	t := &tunnel{Conn: c, r: bufio.NewReader(c)}
	resp, err := http.ReadResponse(t.r, req)
	if err != nil {
		return nil, fmt.Errorf("asking the node at %s: no answer of an HTTP proxy: %w", a.where, err)
	}
	if resp.StatusCode == http.StatusOK {
		return t, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // a part of the text is better than none
	if resp.StatusCode == http.StatusProxyAuthRequired {
		return nil, a.refusal(resp, nil)
	}
	text := strings.TrimSpace(string(body))
	if text == "" {
		text = resp.Status
	}
	return nil, &Error{resp.StatusCode, text}
}
