package control

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/coder/websocket"
)

// maxMessage is the size in bytes of the largest WebSocket message that both ends take: a few records.
const maxMessage = 32 << 10

var errTextMessage = errors.New("WebSocket message is text, want binary")

// wsConn is a channel's byte stream inside a WebSocket, whose message borders mean nothing (section 2.8). Addresses and
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

// Write sends p as one message: records are written a few at a time.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye but does not wait for the answer.
func (c *wsConn) Close() error {
	c.Conn.SetReadDeadline(time.Now())
	return c.ws.Close(websocket.StatusNormalClosure, "")
}
