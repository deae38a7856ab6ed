package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/coder/websocket"
)

const (
	webSocketProtocol = "derp"
	// maxMessage is the size in bytes of the largest message that both sides take (1.8).
	maxMessage = 32 << 10
)

var errTextMessage = errors.New("WebSocket message is text, want binary")

// wsConn is a DERP connection inside a WebSocket: a byte stream whose message borders mean nothing (1.8). Addresses and
// deadlines are those of the connection below; a deadline that passes ends the WebSocket.
type wsConn struct {
	net.Conn
	ws      *websocket.Conn
	message io.Reader // the rest of the current message; nil between messages
}

// Read reads from the current message, or waits for the next.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			typ, r, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, wsError(err)
			}
			if typ != websocket.MessageBinary {
				c.ws.Close(websocket.StatusUnsupportedData, "want binary messages")
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
		return n, wsError(err)
	}
}

// wsError turns the end of a WebSocket into the end of a stream.
func wsError(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		return io.EOF
	}
	return err
}

// Write splits p into messages.
func (c *wsConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), maxMessage)]
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, part); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// Close says goodbye but does not wait for the answer.
func (c *wsConn) Close() error {
	c.Conn.SetReadDeadline(time.Now())
	return c.ws.Close(websocket.StatusNormalClosure, "")
}
