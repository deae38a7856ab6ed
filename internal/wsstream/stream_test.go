package wsstream

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// serve starts a server that accepts WebSockets with a subprotocol and passes each stream to f,
// which owns it. It returns the server's address.
func serve(t *testing.T, subprotocol string, f func(c *Conn)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
		if err != nil {
			t.Errorf("accepting: %v", err)
			return
		}
		f(c)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func dial(t *testing.T, addr string, cfg DialConfig) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	cfg.URL, cfg.Subprotocol = "http://"+addr+"/", "stream"
	return Dial(ctx, conn, cfg)
}

var usual = DialConfig{MaxHead: 4 << 10, MaxMessage: MaxMessage}

// Bytes arrive in order for any sizes of writes and reads, until the peer closes.
func TestStream(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*MaxMessage/16+1)
	addr := serve(t, "stream", func(c *Conn) {
		defer c.Close()
		if _, err := io.Copy(c, io.LimitReader(c, int64(len(data)))); err != nil {
			t.Errorf("echoing: %v", err)
		}
	})
	c, err := dial(t, addr, usual)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		n, err := c.Write(data)
		if n != len(data) && err == nil {
			err = io.ErrShortWrite
		}
		written <- err
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want the %d that were written, and then the end", len(got), err, len(data))
	}
	if err := <-written; err != nil {
		t.Errorf("writing: %v", err)
	}
}

// A read deadline interrupts a blocked Read.
func TestDeadline(t *testing.T) {
	addr := serve(t, "stream", func(c *Conn) {
		defer c.Close()
		io.Copy(io.Discard, c)
	})
	c, err := dial(t, addr, usual)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a read came back without an error and without a byte")
	}
	c.Close()
}

// A text message, or one that is too large, ends the stream with an error.
func TestInvalidMessages(t *testing.T) {
	for name, c := range map[string]struct {
		typ  websocket.MessageType
		size int
		want string
	}{
		"text":      {websocket.MessageText, 5, "message is text"},
		"too large": {websocket.MessageBinary, MaxMessage + 1, "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			errc := make(chan error, 1)
			addr := serve(t, "stream", func(c *Conn) {
				defer c.Close()
				_, err := io.Copy(io.Discard, c)
				errc <- err
			})
			ws, _, err := websocket.Dial(t.Context(), "http://"+addr+"/",
				&websocket.DialOptions{Subprotocols: []string{"stream"}})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			if err := ws.Write(t.Context(), c.typ, make([]byte, c.size)); err != nil {
				t.Fatal(err)
			}
			if err := <-errc; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that says %q", err, c.want)
			}
		})
	}
}

// Dial fails if the server selects another subprotocol, sends too large a head, or redirects.
func TestDialRefuses(t *testing.T) {
	other := serve(t, "other", func(c *Conn) {
		if c.Subprotocol() != "" {
			t.Errorf("agreed on %q", c.Subprotocol())
		}
		c.Refuse("want other")
	})
	elsewhere := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	defer elsewhere.Close()
	long := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Long", strings.Repeat("x", 8<<10))
	}))
	defer long.Close()
	for addr, want := range map[string]string{
		other:                              `server chose subprotocol ""`,
		elsewhere.Listener.Addr().String(): "302",
		long.Listener.Addr().String():      "exceeded",
	} {
		if _, err := dial(t, addr, usual); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
}
