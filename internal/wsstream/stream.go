// Package wsstream carries a byte stream inside a WebSocket on a connection that there is already:
// the way through middleboxes that strip any other upgrade. DERP (section 1.8) and ts2021 (section
// 2.8) both go through it, and to both the borders of messages mean nothing. It starts no
// goroutines of its own.
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
)

// MaxMessage is the size in bytes of the largest message that a Conn writes, and of the largest
// that both sides of either protocol take.
const MaxMessage = 32 << 10

var (
	errTextMessage  = errors.New("WebSocket message is text, want binary")
	errDialledTwice = errors.New("HTTP client wants a second connection")
)

// Conn is a byte stream. Addresses and deadlines are those of the connection below; a deadline that
// passes ends the WebSocket.
type Conn struct {
	net.Conn
	ws      *websocket.Conn
	message io.Reader // the rest of the current message; nil between messages
}

// Accept answers r, which asks for a WebSocket. It takes messages of up to MaxMessage bytes.
func Accept(w http.ResponseWriter, r *http.Request, opts *websocket.AcceptOptions) (*Conn, error) {
	h := &hijacked{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, opts)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(MaxMessage)
	return &Conn{Conn: h.conn, ws: ws}, nil
}

// DialConfig says how to ask for a WebSocket.
type DialConfig struct {
	URL, Host   string // whose scheme does not matter; Host is that of URL if empty
	Header      http.Header
	Subprotocol string // the server must choose it too
	MaxHead     int64  // bytes of the answer's head
	MaxMessage  int64  // bytes of a message
}

// Dial does the client's part on conn, which remains the caller's if there is an error.
func Dial(ctx context.Context, conn net.Conn, cfg DialConfig) (*Conn, error) {
	once := &onceDialer{conn: conn}
	tr := &http.Transport{DialContext: once.dial, DisableKeepAlives: true, MaxResponseHeaderBytes: cfg.MaxHead}
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

// Subprotocol is the one that was agreed on.
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Refuse ends the WebSocket because what was asked for, or what is carried, is not what this side
// speaks.
func (c *Conn) Refuse(reason string) {
	c.end(websocket.StatusPolicyViolation, reason)
}

// Read reads from the current message, or waits for the next.
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

// streamError turns the end of a WebSocket into the end of a stream.
func streamError(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		return io.EOF
	}
	return err
}

// Write splits p into messages.
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

// Close says goodbye but does not wait for the answer.
func (c *Conn) Close() error { return c.end(websocket.StatusNormalClosure, "") }

func (c *Conn) end(code websocket.StatusCode, reason string) error {
	c.Conn.SetReadDeadline(time.Now())
	return c.ws.Close(code, reason)
}

// hijacked remembers the connection that was hijacked through it, which the WebSocket library keeps
// to itself.
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

// onceDialer gives an HTTP transport the connection that there is already.
type onceDialer struct{ conn net.Conn }

func (d *onceDialer) dial(context.Context, string, string) (net.Conn, error) {
	conn := d.conn
	if d.conn = nil; conn == nil {
		return nil, errDialledTwice
	}
	return conn, nil
}
