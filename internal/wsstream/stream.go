// Package wsstream carries a byte stream in the binary messages of a WebSocket, on an existing
// connection. DERP (DERP specification, section 1.8) and ts2021 (control specification, section
// 2.8) use it to pass middleboxes that strip every other HTTP upgrade; message boundaries mean
// nothing to either protocol. The package starts no goroutines.
package wsstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"ginnel/internal/httpconn"
)

// MaxMessage is the largest message in bytes that a Conn writes. Peers of both protocols accept
// messages up to this size.
const MaxMessage = 32 << 10

var errTextMessage = errors.New("WebSocket message is text, want binary")

// Conn is a byte stream in a WebSocket. Addresses and deadlines are those of the underlying
// connection. A deadline that passes breaks the WebSocket.
type Conn struct {
	net.Conn
	ws      *websocket.Conn
	message io.Reader // the rest of the current message; nil between messages
}

// Accept upgrades the request r to a WebSocket. It accepts messages of up to MaxMessage bytes.
func Accept(w http.ResponseWriter, r *http.Request, opts *websocket.AcceptOptions) (*Conn, error) {
	h := &hijacked{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, opts)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(MaxMessage)
	return &Conn{Conn: h.conn, ws: ws}, nil
}

// DialConfig configures the client's request for a WebSocket.
type DialConfig struct {
	URL         string // of the request; http, also if the connection is TLS
	Host        string // the Host header; empty: the host of URL
	Header      http.Header
	Subprotocol string // the server must select it
	MaxHead     int64  // largest head of the response in bytes
	MaxMessage  int64  // largest message in bytes that is accepted
}

// Dial requests a WebSocket on conn. If it fails, the caller still owns conn.
func Dial(ctx context.Context, conn net.Conn, cfg DialConfig) (*Conn, error) {
	tr := &http.Transport{
		DialContext: httpconn.DialOnce(conn), DisableKeepAlives: true, MaxResponseHeaderBytes: cfg.MaxHead,
	}
	defer tr.CloseIdleConnections()
	ws, _, err := websocket.Dial(ctx, cfg.URL, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: tr, CheckRedirect: noRedirect},
		HTTPHeader:      cfg.Header,
		Host:            cfg.Host,
		Subprotocols:    []string{cfg.Subprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(ws.Subprotocol(), cfg.Subprotocol) {
		ws.CloseNow()
		return nil, fmt.Errorf("server chose subprotocol %q, want %q", ws.Subprotocol(), cfg.Subprotocol)
	}
	ws.SetReadLimit(cfg.MaxMessage)
	return &Conn{Conn: conn, ws: ws}, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Subprotocol returns the negotiated subprotocol; empty: none.
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Refuse closes the WebSocket with a reason for the peer (StatusPolicyViolation).
func (c *Conn) Refuse(reason string) {
	c.end(websocket.StatusPolicyViolation, reason)
}

// Read implements net.Conn. It reads from the current message, or waits for the next.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			typ, r, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, streamError(err)
			}
			if typ != websocket.MessageBinary {
				c.end(websocket.StatusUnsupportedData, "want binary messages")
				return 0, errTextMessage
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, streamError(err)
	}
}

// streamError returns io.EOF if err is the orderly close of the WebSocket, and err otherwise.
func streamError(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		return io.EOF
	}
	return err
}

// Write implements net.Conn. It splits p into messages of at most MaxMessage bytes.
func (c *Conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), MaxMessage)]
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, part); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// Close sends a close frame, does not wait for the peer's, and closes the connection.
func (c *Conn) Close() error { return c.end(websocket.StatusNormalClosure, "") }

func (c *Conn) end(code websocket.StatusCode, reason string) error {
	c.Conn.SetReadDeadline(time.Now())
	return c.ws.Close(code, reason)
}

// hijacked records the connection that the WebSocket library hijacks, because the library does not
// expose it.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, brw, err
}
