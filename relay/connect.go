package relay

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ginnel/internal/wsstream"
	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// This file has the client's side of a connection up to the login: TLS, upgrade and ClientInfo (1.6
// to 1.8, 2).

// connectTimeout bounds a connection attempt from the first dial to the login (2.6).
const connectTimeout = 10 * time.Second

// maxUpgradeAnswer bounds the header of the answer to the upgrade, in bytes.
const maxUpgradeAnswer = 64 << 10

// Transport is what carries the frames of a connection.
type Transport uint8

const (
	TransportNone      Transport = iota // no connection
	TransportNative                     // DERP after an HTTP upgrade, inside TLS
	TransportWebSocket                  // WebSocket messages, inside TLS unless the URL was http
	TransportPlain                      // as TransportNative, without TLS
)

// String returns "none", "native", "websocket" or "plain".
func (t Transport) String() string {
	return [...]string{"none", "native", "websocket", "plain"}[t]
}

var errNoClientKey = errors.New("relay: client has no key")

// upgradeError reports an HTTP answer in place of an upgraded connection. It comes from the relay
// or from something on the way to it.
type upgradeError struct {
	status int    // 0 if the answer has none
	answer string // the status line
}

// Error implements error.
func (e *upgradeError) Error() string {
	return "the upgrade to DERP was answered with " + excerpt(e.answer)
}

// refusedUpgrade reports whether err means that WebSocket may get through although native DERP did
// not. A server that is too busy for DERP is too busy for WebSocket.
func refusedUpgrade(err error) bool {
	ue, ok := errors.AsType[*upgradeError](err)
	return ok && ue.status != http.StatusServiceUnavailable && ue.status != http.StatusTooManyRequests
}

// loginOptions are what a client says in its login.
type loginOptions struct {
	info  derp.ClientInfo
	home  derp.HomeNote // sent with the login if it is IsHome
	watch bool          // ask for the presence of all clients (5.2)
}

// session is a connection after the login.
type session struct {
	conn      *derp.FrameConn
	in        derp.FrameReader
	server    key.NodePublic
	shared    *key.Shared
	transport Transport
}

// connect connects to the first target that answers, and logs in. If the upgrade is refused, it
// tries again as WebSocket.
func connect(
	ctx context.Context, cfg *ClientConfig, targets []*target, opts *loginOptions, first Transport,
) (*session, error) {
	if cfg.Key.IsZero() {
		return nil, errNoClientKey
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	s, err := connectOnce(ctx, cfg, targets, opts, first)
	if refusedUpgrade(err) && first != TransportWebSocket {
		cfg.log().Info("relay upgrade refused on the way, trying WebSocket", "err", err)
		return connectOnce(ctx, cfg, targets, opts, TransportWebSocket)
	}
	return s, err
}

func connectOnce(
	ctx context.Context, cfg *ClientConfig, targets []*target, opts *loginOptions, tr Transport,
) (*session, error) {
	base, t, err := dialAny(ctx, cfg, targets)
	if err != nil {
		return nil, err
	}
	// The context can end the login, but not the connection that results from it.
	stop := context.AfterFunc(ctx, closer(base))
	s, err := login(ctx, cfg, base, t, opts, tr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		base.Close()
		return nil, fmt.Errorf("connecting to relay %s: %w", t.hostHeader(), printableError{cmp.Or(ctx.Err(), err)})
	}
	return s, nil
}

// closer returns a function that closes conn.
func closer(conn net.Conn) func() { return func() { conn.Close() } }

// login does everything above TCP.
func login(
	ctx context.Context, cfg *ClientConfig, base net.Conn, t *target, opts *loginOptions, tr Transport,
) (*session, error) {
	conn := base
	var server key.NodePublic
	if !t.plain {
		tc := tls.Client(base, newVerifier(t, cfg.Roots).config())
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("setting up TLS: %w", err)
		}
		if cs := tc.ConnectionState(); cs.Version >= tls.VersionTLS13 {
			server, _ = derp.ParseMetaCert(cs.PeerCertificates)
		}
		conn = tc
	}
	s := &session{transport: TransportNative, server: server}
	if t.plain {
		s.transport = TransportPlain
	}
	var err error
	switch {
	case tr == TransportWebSocket:
		s.transport = TransportWebSocket
		if conn, err = openWebSocket(ctx, conn, t); err == nil {
			s.in.Open(conn)
			err = s.normalStart(cfg, conn, opts)
		}
	case !server.IsZero():
		s.in.Open(conn)
		err = s.fastStart(cfg, conn, t, opts)
	default:
		s.in.Open(conn)
		if err = s.upgrade(conn, t); err == nil {
			err = s.normalStart(cfg, conn, opts)
		}
	}
	if err != nil {
		s.in.Release()
		return nil, err
	}
	s.conn = derp.NewFrameConn(conn, base, clientWriteTimeout)
	return s, nil
}

// appendRequest appends the request for the upgrade, with extra header lines.
func appendRequest(b []byte, t *target, extra ...string) []byte {
	b = fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ginnel\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n",
		t.path, t.hostHeader())
	for _, line := range extra {
		b = append(append(b, line...), "\r\n"...)
	}
	if t.ideal != "" {
		b = fmt.Appendf(b, "%s: %s\r\n", derp.HeaderIdealNode, t.ideal)
	}
	return append(b, "\r\n"...)
}

// fastStart sends request and login together. It needs the server's key (1.7).
func (s *session) fastStart(cfg *ClientConfig, conn net.Conn, t *target, opts *loginOptions) error {
	b, err := s.appendLogin(appendRequest(nil, t, derp.HeaderFastStart+": 1"), cfg, opts)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	return nil
}

// upgrade sends the request and waits for the answer. Bytes behind the answer stay buffered for the
// reader.
func (s *session) upgrade(conn net.Conn, t *target) error {
	if _, err := conn.Write(appendRequest(nil, t)); err != nil {
		return fmt.Errorf("asking for the upgrade: %w", err)
	}
	br := bufio.NewReader(io.LimitReader(conn, maxUpgradeAnswer))
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("reading the answer to the upgrade: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return &upgradeError{resp.StatusCode, resp.Proto + " " + resp.Status}
	}
	early, _ := br.Peek(br.Buffered())
	s.in.Preload(early)
	return nil
}

// normalStart learns the server's key from its first frame and logs in.
func (s *session) normalStart(cfg *ClientConfig, conn net.Conn, opts *loginOptions) error {
	p, err := s.readServerKey()
	if err != nil {
		return fmt.Errorf("reading the server's key: %w", err)
	}
	s.server = p
	b, err := s.appendLogin(nil, cfg, opts)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	return nil
}

func (s *session) readServerKey() (key.NodePublic, error) {
	for {
		b := s.in.Buffered()
		t, n, ok := derp.ParseHeader(b)
		if ok && (t != derp.FrameServerKey || n > derp.MaxServerKey) {
			return key.NodePublic{}, derp.ErrServerGreeting
		}
		if size := derp.HeaderSize + int(n); ok && len(b) >= size {
			s.in.Take(uint64(size))
			return derp.ParseServerKey(b[derp.HeaderSize:size])
		}
		if _, err := s.in.Read(); err != nil {
			return key.NodePublic{}, err
		}
	}
}

// appendLogin appends ClientInfo and the frames that follow it at once.
func (s *session) appendLogin(b []byte, cfg *ClientConfig, opts *loginOptions) ([]byte, error) {
	var err error
	if s.shared, err = cfg.Key.Shared(s.server); err != nil {
		return nil, fmt.Errorf("checking the server's key: %w", err)
	}
	b = derp.AppendClientInfo(b, cfg.Key.Public(), s.shared, opts.info)
	if opts.home == derp.IsHome {
		b = derp.AppendNotePreferred(b, derp.IsHome)
	}
	if opts.watch {
		b = derp.AppendHeader(b, derp.FrameWatchConns, 0)
	}
	return b, nil
}

// openWebSocket does the WebSocket handshake on conn.
func openWebSocket(ctx context.Context, conn net.Conn, t *target) (net.Conn, error) {
	u := t.url()
	u.Scheme = "http" // conn has TLS already
	c, err := wsstream.Dial(ctx, conn, wsstream.DialConfig{
		URL: u.String(), Host: t.hostHeader(), Subprotocol: derp.WebSocketProtocol, MaxHead: maxUpgradeAnswer,
		MaxMessage: derp.MaxFrameToClient, // the reference server exceeds its own limit for large packets (1.8)
	})
	if err != nil {
		return nil, fmt.Errorf("opening the WebSocket: %w", err)
	}
	return c, nil
}

// httpAnswer returns an upgradeError if b, where a frame should begin, begins an HTTP answer. That
// is how a fast start learns that the upgrade was refused (1.7). It may have to read the rest of
// the status line.
func httpAnswer(b []byte, conn net.Conn) error {
	if !bytes.HasPrefix(b, []byte("HTTP/")) {
		return nil
	}
	line, _, whole := bytes.Cut(b, []byte("\r\n"))
	if !whole {
		var more [100]byte
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := conn.Read(more[:])
		line, _, _ = bytes.Cut(append(bytes.Clone(line), more[:n]...), []byte("\r\n"))
	}
	ue := &upgradeError{answer: string(line)}
	if fields := strings.Fields(ue.answer); len(fields) > 1 {
		ue.status, _ = strconv.Atoi(fields[1])
	}
	return ue
}
