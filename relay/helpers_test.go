package relay

import (
	"bytes"
	"context"
	"testing"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
)

// DialTest connects to a region; the client is closed at the end of the test.
func DialTest(tb testing.TB, r *Region, cfg ClientConfig) *Client {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	c, err := DialRegion(tb.Context(), r, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// WantKind receives until a message of that kind comes, and returns it.
func WantKind(tb testing.TB, c *Client, kind MessageKind) Message {
	tb.Helper()
	for {
		msgs, err := c.Recv()
		if err != nil {
			tb.Fatalf("waiting for a message of kind %d: %v", kind, err)
		}
		for _, m := range msgs {
			if m.Kind == kind {
				m.Data = bytes.Clone(m.Data)
				return m
			}
		}
	}
}

// DrainMessages receives until the client ends.
func DrainMessages(c *Client) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
	}
}

// clientOf dials s and returns both ends of a connection that is logged in.
func clientOf(s *rawpeer.Server, cfg ClientConfig) (*Client, *rawpeer.Peer) {
	s.T.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	cfg.DialContext = s.Net.DialContext
	clientc := make(chan *Client, 1)
	go func() {
		c, err := Dial(context.Background(), rawpeer.URL, cfg)
		if err != nil {
			s.T.Error(err)
		}
		clientc <- c
	}()
	p, client, _ := s.AcceptLogin()
	p.Admit(client, derp.ServerInfo{Version: 2})
	c := <-clientc
	if c == nil {
		s.T.FailNow()
	}
	s.T.Cleanup(func() { c.Close() })
	WantKind(s.T, c, MessageLoggedIn)
	return c, p
}

// DialWebSocket is Dial, except that it does not try native DERP first.
func DialWebSocket(ctx context.Context, rawURL string, cfg ClientConfig) (*Client, error) {
	t, err := urlTarget(rawURL)
	if err != nil {
		return nil, err
	}
	return dialWebSocketTo(ctx, []*target{t}, cfg)
}

// DialRegionWebSocket is DialRegion, except that it does not try native DERP first.
func DialRegionWebSocket(ctx context.Context, r *Region, cfg ClientConfig) (*Client, error) {
	return dialWebSocketTo(ctx, nodeTargets(r), cfg)
}

func dialWebSocketTo(ctx context.Context, targets []*target, cfg ClientConfig) (*Client, error) {
	s, err := connect(ctx, &cfg, targets, newLoginOptions(&cfg), TransportWebSocket)
	if err != nil {
		return nil, err
	}
	c := &Client{session: s}
	c.out = newSender(&c.wg)
	c.start()
	return c, nil
}

// SendControl sends a frame that the client never sends by itself.
func (c *Client) SendControl(frame []byte) {
	c.out.box.Send(derp.FlowID{Class: derp.ClassControl}, frame, 0)
}
