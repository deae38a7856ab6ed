package server

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/coder/websocket"

	"ginnel/internal/share"
	"ginnel/internal/wsstream"
	"ginnel/relay/internal/derp"
)

// This file has the server's side of the HTTP upgrade (1.6 to 1.8).

// handleUpgrade turns an HTTP request into a DERP connection.
func (s *Server) handleUpgrade(w http.ResponseWriter, r *http.Request) {
	if refused := s.refusal(share.SourceOfHost(r.RemoteAddr)); refused != "" {
		s.refused(refused, r.RemoteAddr)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "this relay takes no more clients at the moment", http.StatusServiceUnavailable)
		return
	}
	upgrade := strings.ToLower(r.Header.Get("Upgrade"))
	switch {
	case upgrade == "websocket" && offersWebSocketProtocol(r.Header):
		s.upgradeWebSocket(w, r)
	case upgrade == "derp" || upgrade == "websocket": // very old clients say websocket and speak native DERP
		s.upgradeNative(w, r)
	default:
		http.Error(w, "DERP needs an upgrade of the connection", http.StatusUpgradeRequired)
	}
}

// refused counts a client that is refused before it is served. It logs the reason if an operator
// can do something about it.
func (s *Server) refused(why, remote string) {
	s.metrics.refused.WithLabelValues(why).Inc()
	if why == refusedFull {
		s.clientLogs.full.Write(time.Now(), share.SourceOfHost(remote), "client", remote, "what", "client refused")
	}
}

// offersWebSocketProtocol reports whether the client can speak DERP inside a WebSocket. It applies
// the rule by which the WebSocket library then chooses the subprotocol.
func offersWebSocketProtocol(h http.Header) bool {
	for _, list := range h.Values("Sec-WebSocket-Protocol") {
		for token := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(token), derp.WebSocketProtocol) {
				return true
			}
		}
	}
	return false
}

func (s *Server) upgradeNative(w http.ResponseWriter, r *http.Request) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "DERP needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	var greeting []byte
	if r.Header.Get(derp.HeaderFastStart) != "1" {
		greeting = derp.AppendSwitching(nil, s.public)
	}
	c := s.newConn(derp.NewFrameConn(conn, derp.BaseOf(conn), s.cfg.writeTimeout()), r, greeting)
	if n := brw.Reader.Buffered(); n > 0 { // a fast start sends ClientInfo along with the request
		early, _ := brw.Reader.Peek(n)
		c.in.Preload(early)
	}
	s.startServing(c, "derp")
}

// controlOverhead is what a client adds to the payload of a ping or pong: header and mask.
const controlOverhead = 6

// upgradeWebSocket turns the request into a WebSocket. Pings and pongs count against the client's
// rate, although the reader of frames does not see them.
func (s *Server) upgradeWebSocket(w http.ResponseWriter, r *http.Request) {
	var c *serverConn
	ws, err := wsstream.Accept(w, r, &websocket.AcceptOptions{
		OnPingReceived: func(_ context.Context, p []byte) bool {
			c.throttle(controlOverhead + len(p))
			return true
		},
		OnPongReceived:     func(_ context.Context, p []byte) { c.throttle(controlOverhead + len(p)) },
		Subprotocols:       []string{derp.WebSocketProtocol},
		InsecureSkipVerify: true, // any origin: pages must log in with a key like other clients (1.8)
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		s.log.Debug("WebSocket refused", "client", r.RemoteAddr, "err", err)
		return
	}
	c = s.newConn(derp.NewFrameConn(ws, derp.BaseOf(ws.Conn), s.cfg.writeTimeout()), r, nil)
	s.startServing(c, "websocket")
}

// newConn returns a connection that begins with greeting and ServerKey.
func (s *Server) newConn(w *derp.FrameConn, r *http.Request, greeting []byte) *serverConn {
	c := &serverConn{
		s:        s,
		conn:     w,
		greeting: derp.AppendServerKey(greeting, s.public),
		serial:   s.serial.Add(1),
		limiter:  s.cfg.newLimiter(),
	}
	c.in.Open(w.Conn)
	c.remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	c.source = share.SourceOf(c.remote.Addr())
	c.out = derp.NewOutbox(&s.wg, &serverLimits, s.memory.acquire(c.source), s.metrics)
	if r.Header.Get(derp.HeaderIdealNode) != "" {
		c.flags = derp.PresentNotIdeal
	}
	return c
}

// startServing starts to serve c, or closes it if it is refused.
func (s *Server) startServing(c *serverConn, transport string) {
	if refused := s.admit(c); refused != "" {
		s.refused(refused, c.remote.String())
		c.conn.HangUp(nil)
		s.memory.release(c.source)
		return
	}
	s.metrics.accepted.WithLabelValues(transport).Inc()
}
