package relay

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

const (
	// A server sends something at least every 65 s. A client gives up after 120 s without a frame
	// (4.4, 8.6). The deadline is not moved for every read, only when it is watchdogStep old.
	watchdog     = 120 * time.Second
	watchdogStep = 5 * time.Second
)

// ClientConfig configures a [Client]. Only Key is required.
type ClientConfig struct {
	// Key is the node's key: its public half is the address at which others reach it.
	Key key.NodePrivate
	// MeshKey makes the relay trust the client as a server of its mesh; zero for all other clients
	// (5.1).
	MeshKey MeshKey
	// Log gets failures; nil discards them.
	Log *slog.Logger
	// Roots are trusted in addition to the roots of the system.
	Roots *x509.CertPool
	// Proxy chooses the proxy for a relay, as [http.Transport] does. If it is nil or returns nil,
	// the relay is dialed directly.
	Proxy func(relay *url.URL) (*url.URL, error)
	// DialProxy connects to addr through the proxy that Proxy chose. Without it, a chosen proxy is
	// an error.
	DialProxy func(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error)
	// DialContext makes all direct connections; nil means a [net.Dialer].
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (c *ClientConfig) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

func (c *ClientConfig) dialContext() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.DialContext == nil {
		return new(net.Dialer).DialContext
	}
	return c.DialContext
}

// MessageKind tells what a [Message] is.
type MessageKind uint8

const (
	MessagePacket      MessageKind = iota // Data is a packet from Peer
	MessagePeerGone                       // Peer can no longer be reached at this relay
	MessageHealth                         // Data is the relay's complaint about this connection; empty: it is over
	MessageLoggedIn                       // the relay has admitted the client
	MessageRestarting                     // Data is the payload of a Restarting frame
	MessagePeerPresent                    // Peer is connected, Data is the frame's payload; only with a mesh key
)

// Message is what Recv returns: something that came from a relay.
type Message struct {
	Kind MessageKind
	Peer key.NodePublic
	Data []byte
}

// Client is a connection to one relay. Send may be called from any goroutine, Recv from one at a
// time. Recv must be called all the time, because it also answers the relay's pings. A client
// that has failed stays failed.
type Client struct {
	session *session
	out     *sender
	wg      sync.WaitGroup // of the outbox, unless that belongs to a region

	// Owned by the goroutine that calls Recv.
	msgs        []Message
	watchdogSet time.Time // when the read deadline was set
	err         error     // the error that ended Recv

	mu    sync.Mutex
	ended bool
	pings map[derp.PingData]chan error // each channel gets one item
}

// Dial connects to the relay at an https or http URL and logs in; ctx bounds only that. If
// something on the way refuses the upgrade to DERP, Dial uses WebSocket. Errors say what is wrong
// with a certificate.
func Dial(ctx context.Context, rawURL string, cfg ClientConfig) (*Client, error) {
	t, err := urlTarget(rawURL)
	if err != nil {
		return nil, err
	}
	return dialClient(ctx, &cfg, []*target{t}, newLoginOptions(&cfg))
}

// DialRegion connects to the first relay of a region that answers (1.10).
func DialRegion(ctx context.Context, r *Region, cfg ClientConfig) (*Client, error) {
	return dialClient(ctx, &cfg, nodeTargets(r), newLoginOptions(&cfg))
}

func newLoginOptions(cfg *ClientConfig) *loginOptions {
	return &loginOptions{info: derp.ClientInfo{
		MeshKey:     derp.SealedMeshKey{MeshKey: cfg.MeshKey},
		Version:     derp.ProtocolVersion,
		CanAckPings: true,
	}}
}

func dialClient(ctx context.Context, cfg *ClientConfig, targets []*target, h *loginOptions) (*Client, error) {
	s, err := connect(ctx, cfg, targets, h, TransportNative)
	if err != nil {
		return nil, err
	}
	c := &Client{session: s}
	c.out = newSender(&c.wg)
	c.start()
	return c, nil
}

// start sends over the session from now on.
func (c *Client) start() {
	c.out.bucket.Store(nil)
	c.session.conn.Start(c.out.box.StartDrain)
	c.out.box.Attach(c.session.conn)
}

// Transport returns what carries the frames.
func (c *Client) Transport() Transport { return c.session.transport }

// ServerKey returns the key of the relay.
func (c *Client) ServerKey() key.NodePublic { return c.session.server }

// RemoteAddr returns the address of the relay, or of the proxy before it. It is zero if that is not
// an IP address.
func (c *Client) RemoteAddr() netip.AddrPort { return addrPortOf(c.session.conn.Conn.RemoteAddr()) }

func addrPortOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Send sends packets to the client with key to, in one write if possible. It never waits for the
// network. If too much is queued it waits 20 ms at most; then it drops packets without an error, as
// the relay does. Errors are net.ErrClosed, and one for packets larger than [MaxPacket], which are
// left out.
func (c *Client) Send(to key.NodePublic, packets [][]byte) error { return c.out.send(to, packets) }

// Recv waits for messages and returns all that one read brought. They are valid until the next
// call. Errors are final, and Send fails afterwards: net.ErrClosed after Close,
// os.ErrDeadlineExceeded after 120 s without a frame or 10 s in which the relay took no bytes,
// io.EOF if the relay closed the connection.
func (c *Client) Recv() ([]Message, error) {
	msgs, err := c.recv()
	if err != nil {
		c.out.box.Close()
	}
	return msgs, err
}

// recv is Recv, except that it leaves the outbox open for the next connection.
func (c *Client) recv() ([]Message, error) {
	if c.err != nil {
		return nil, c.err
	}
	c.msgs = c.msgs[:0]
	for {
		if err := c.parse(); err != nil {
			return nil, c.fail(err)
		}
		if len(c.msgs) > 0 {
			return c.msgs, nil
		}
		if now := time.Now(); now.Sub(c.watchdogSet) > watchdogStep {
			c.session.conn.Conn.SetReadDeadline(now.Add(watchdog + watchdogStep))
			c.watchdogSet = now
		}
		if _, err := c.session.in.Read(); err != nil {
			return nil, c.fail(err)
		}
		c.out.counters.lastHeard.Store(time.Now().UnixNano())
	}
}

// fail ends the connection for good.
func (c *Client) fail(err error) error {
	c.session.conn.Fail(err)
	c.session.in.Release()
	c.endPings()
	c.err = c.session.conn.Cause(err)
	return c.err
}

// parse takes all whole frames out of the buffer.
func (c *Client) parse() error {
	in := &c.session.in
	for {
		b := in.Buffered()
		t, n, ok := derp.ParseHeader(b)
		if !ok {
			return nil
		}
		if n > derp.MaxFrameToClient {
			if err := httpAnswer(b, c.session.conn.Conn); err != nil {
				return err
			}
			return &derp.FrameError{Type: t, Length: n, Reason: "too large"}
		}
		size := derp.HeaderSize + int(n)
		if len(b) < size && isServerFrame(t) && n <= maxFromServer {
			return nil
		}
		in.Take(uint64(size))
		if len(b) >= size {
			if err := c.handle(t, b[derp.HeaderSize:size]); err != nil {
				return err
			}
		}
	}
}

// maxFromServer is the largest payload that the client handles. Larger frames are skipped.
const maxFromServer = key.Size + derp.MaxPacket

// isServerFrame reports whether a client handles frames of this type.
func isServerFrame(t derp.FrameType) bool {
	switch t {
	case derp.FrameRecvPacket, derp.FramePing, derp.FramePong, derp.FramePeerGone, derp.FramePeerPresent,
		derp.FrameServerInfo, derp.FrameHealth, derp.FrameRestarting:
		return true
	}
	return false
}

// handle acts on a frame or makes a message of it. Frames that are too short are skipped (3.1).
func (c *Client) handle(t derp.FrameType, p []byte) error {
	switch t {
	case derp.FrameRecvPacket:
		if len(p) >= key.Size {
			c.msgs = append(c.msgs, Message{MessagePacket, key.NodePublic(p[:key.Size]), p[key.Size:]})
		}
	case derp.FrameServerInfo:
		info, err := derp.OpenServerInfo(c.session.shared, p)
		if err != nil {
			return fmt.Errorf("reading the server's answer to the login: %w", err)
		}
		c.out.limit(info)
		c.msgs = append(c.msgs, Message{Kind: MessageLoggedIn})
	case derp.FramePeerGone:
		if peer, _, ok := derp.ParsePeerGone(p); ok {
			c.msgs = append(c.msgs, Message{Kind: MessagePeerGone, Peer: peer})
		}
	case derp.FramePeerPresent:
		if present, ok := derp.ParsePeerPresent(p); ok {
			c.msgs = append(c.msgs, Message{MessagePeerPresent, present.Peer, p})
		}
	case derp.FramePing:
		if data, ok := derp.ParsePing(p); ok {
			c.out.box.Send(derp.FlowID{Class: derp.ClassPong}, derp.AppendPong(nil, data), 0)
		}
	case derp.FramePong:
		if data, ok := derp.ParsePing(p); ok {
			c.endPing(data, nil)
		}
	case derp.FrameHealth:
		c.msgs = append(c.msgs, Message{Kind: MessageHealth, Data: p})
	case derp.FrameRestarting:
		if _, ok := derp.ParseRestarting(p); ok {
			c.msgs = append(c.msgs, Message{Kind: MessageRestarting, Data: p})
		}
	}
	return nil
}

// Ping measures the round-trip time to the relay. Recv must be running meanwhile.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	var data derp.PingData
	rand.Read(data[:])
	start := time.Now()
	donec := c.addPing(data)
	defer c.endPing(data, nil)
	if _, err := c.out.box.Send(derp.FlowID{Class: derp.ClassControl}, derp.AppendPing(nil, data), 0); err != nil {
		return 0, err
	}
	select {
	case err := <-donec:
		return time.Since(start), err
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the answer to a ping: %w", ctx.Err())
	}
}

// addPing registers a ping. The channel gets the result when the ping ends.
func (c *Client) addPing(data derp.PingData) <-chan error {
	donec := make(chan error, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		donec <- net.ErrClosed
		return donec
	}
	if c.pings == nil {
		c.pings = make(map[derp.PingData]chan error)
	}
	c.pings[data] = donec
	return donec
}

// endPing ends the ping with that data, if there is one.
func (c *Client) endPing(data derp.PingData, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if donec := c.pings[data]; donec != nil {
		donec <- err
		delete(c.pings, data)
	}
}

// endPings ends all pings, including later ones.
func (c *Client) endPings() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, donec := range c.pings {
		donec <- net.ErrClosed
	}
	clear(c.pings)
}

// noteHome tells the relay whether it is the client's home (3.5).
func (c *Client) noteHome(note derp.HomeNote) {
	c.out.box.Send(derp.FlowID{Class: derp.ClassControl}, derp.AppendNotePreferred(nil, note), 0)
}

// Close ends the connection. Recv and Send then return net.ErrClosed.
func (c *Client) Close() error {
	c.out.box.Close()
	c.session.conn.HangUp(net.ErrClosed)
	c.endPings()
	c.wg.Wait()
	return nil
}
