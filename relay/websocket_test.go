package relay

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"ginnel/internal/key"
	"ginnel/internal/wsstream"
)

// browser is a WebSocket client that is not ours.
type browser struct {
	t  *testing.T
	ws *websocket.Conn
}

// browse opens a WebSocket as a page of another origin does.
func (r *memRelay) browse(protocols ...string) (*browser, *http.Response) {
	r.t.Helper()
	ws, resp, err := websocket.Dial(r.t.Context(), "ws://relay.example/derp", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return r.net.DialContext(ctx, network, addr)
		}}},
		HTTPHeader:      http.Header{"Origin": {"https://elsewhere.example"}},
		Subprotocols:    protocols,
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ws.SetReadLimit(wsstream.MaxMessage)
	r.t.Cleanup(func() { ws.CloseNow() })
	return &browser{r.t, ws}, resp
}

// login logs in, the frame cut into messages at odd places.
func (b *browser) login(server key.NodePublic, k key.NodePrivate) []byte {
	b.t.Helper()
	stream := b.read(nil, headerSize+40)
	if got, err := parseServerKey(stream[headerSize:]); err != nil || got != server {
		b.t.Fatalf("greeting: %v, %v", got, err)
	}
	shared, err := k.Shared(server)
	if err != nil {
		b.t.Fatal(err)
	}
	hello := appendClientInfo(nil, k.Public(), shared, clientInfo{Version: 2})
	for _, part := range [][]byte{hello[:3], hello[3:40], nil, hello[40:]} {
		b.write(part)
	}
	info := b.read(nil, headerSize+24+16+len(`{"version":2}`))
	if got, err := openServerInfo(shared, info[headerSize:]); err != nil || got.Version != 2 {
		b.t.Fatalf("answer to the login: %+v, %v", got, err)
	}
	return info
}

func (b *browser) write(p []byte) {
	b.t.Helper()
	if err := b.ws.Write(b.t.Context(), websocket.MessageBinary, p); err != nil {
		b.t.Fatal(err)
	}
}

// read appends messages until there are n bytes; it fails on messages that are too large.
func (b *browser) read(stream []byte, n int) []byte {
	b.t.Helper()
	for len(stream) < n {
		typ, p, err := b.ws.Read(b.t.Context())
		if err != nil || typ != websocket.MessageBinary {
			b.t.Fatalf("reading: %v, %v after %d of %d bytes", typ, err, len(stream), n)
		}
		stream = append(stream, p...)
	}
	return stream
}

// Section 1.8: how a page speaks DERP.
func TestWebSocketServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{MeshKey: testMeshKey})
		watcher := r.meshClient()
		watcher.write(appendHeader(nil, frameWatchConns, 0))
		watcher.wantPresent()
		b, resp := r.browse("other", "derp")
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "derp" || resp.Header.Get("Sec-WebSocket-Extensions") != "" || resp.Header.Get("Derp-Version") != "" {
			t.Errorf("answer %+v", resp.Header)
		}
		k := key.NewNodePrivate()
		b.login(r.public, k)
		if got := watcher.wantPresent(); got.peer != k.Public() || got.addr.Addr().String() != "198.51.100.1" || got.flags != presentRegular {
			t.Errorf("announced as %+v", got)
		}
		synctest.Wait() // it is counted after it is announced
		r.wantMetric(t, `ginnel_relay_accepted_connections_total{transport="websocket"}`, 1)

		// Packets larger than a message reach it in several, and come from it in several.
		native := r.client()
		for _, size := range []int{0, 1400, wsstream.MaxMessage, MaxPacket} {
			packet := strings.Repeat("p", size)
			native.send(k.Public(), packet)
			got := b.read(nil, sendOverhead+size)
			if string(got[sendOverhead:]) != packet || key.NodePublic(got[headerSize:]) != native.public() {
				t.Errorf("packet of %d bytes changed", size)
			}
			frame := appendSendPacket(nil, native.public(), []byte(packet))
			for len(frame) > 0 {
				n := min(len(frame), 30_000)
				b.write(frame[:n])
				frame = frame[n:]
			}
			native.wantPacket(k.Public(), packet)
		}
		time.Sleep((keepAliveMin + keepAliveSpread + 1) * keepAliveTick)
		if got := b.read(nil, headerSize); got[0] != byte(frameKeepAlive) {
			t.Errorf("got %x, want a KeepAlive", got)
		}
		native.wantFrame(frameKeepAlive)
		watcher.wantPresent() // native
		watcher.wantFrame(frameKeepAlive)

		b.ws.Close(websocket.StatusGoingAway, "")
		native.wantGone(k.Public(), goneDisconnected)
		watcher.wantGone(k.Public(), goneDisconnected)
	})
}

// What breaks the rules is closed with the code that says so.
func TestWebSocketRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		for name, c := range map[string]struct {
			do   func(b *browser)
			want websocket.StatusCode
		}{
			"text":            {func(b *browser) { b.ws.Write(t.Context(), websocket.MessageText, []byte("hello")) }, websocket.StatusUnsupportedData},
			"too large":       {func(b *browser) { b.write(make([]byte, wsstream.MaxMessage+1)) }, websocket.StatusMessageTooBig},
			"forbidden frame": {func(b *browser) { b.write(appendHeader(nil, frameWatchConns, 0)) }, websocket.StatusNormalClosure},
		} {
			b, _ := r.browse("derp")
			b.login(r.public, key.NewNodePrivate())
			c.do(b)
			_, _, err := b.ws.Read(t.Context())
			if got := websocket.CloseStatus(err); got != c.want && !(c.want == websocket.StatusNormalClosure && err != nil) {
				t.Errorf("%s: closed with %v (%v), want %v", name, got, err, c.want)
			}
		}
	})
}

// A WebSocket is one that offers the subprotocol, as a token of the list; others speak frames right
// away, as very old clients do (1.8).
func TestWebSocketSubprotocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		for list, want := range map[string]string{"derp": "derp", "a, derp": "derp", "DERP": "DERP", "xderp": "", "a,derpy": "", "": ""} {
			resp := r.get("GET", "/derp", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Protocol": {list}})
			upgrade := map[bool]string{true: "websocket", false: "DERP"}[want != ""]
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != want || resp.Header.Get("Upgrade") != upgrade {
				t.Errorf("%q: got subprotocol %q of %q, want %q of %q", list, got, resp.Header.Get("Upgrade"), want, upgrade)
			}
		}
	})
}

// The client's WebSocket: what it reads and writes is a stream.
func TestWebSocketClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		k := key.NewNodePrivate()
		cfg := ClientConfig{Key: k, DialContext: r.net.DialContext}
		tg, err := urlTarget(memURL)
		if err != nil {
			t.Fatal(err)
		}
		s, err := connect(t.Context(), &cfg, []*target{tg}, newHello(&cfg), TransportWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		c := &Client{session: s}
		c.out = newSender(&c.own)
		c.start()
		wantKind(t, c, messageLoggedIn)
		if c.Transport() != TransportWebSocket || c.RemoteAddr().String() != "203.0.113.1:443" {
			t.Errorf("transport %v to %v", c.Transport(), c.RemoteAddr())
		}
		peer := r.client()
		for _, size := range []int{0, 1400, MaxPacket} {
			packet := strings.Repeat("p", size)
			c.Send(peer.public(), [][]byte{[]byte(packet)})
			peer.wantPacket(k.Public(), packet)
			peer.send(k.Public(), packet)
			if m := wantKind(t, c, MessagePacket); string(m.Data) != packet {
				t.Errorf("packet of %d bytes changed", size)
			}
		}
		go func() {
			time.Sleep(keepAliveMin * keepAliveTick / 2)
			c.Close()
		}()
		if _, err := c.Recv(); errText(err) != "closed" {
			t.Errorf("Recv after Close: %v", err)
		}
		peer.wantGone(k.Public(), goneDisconnected)
	})
}

// Pings, which the WebSocket answers on its own, count against the rate of a client.
func TestWebSocketPingsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{ClientRate: 1000, ClientBurst: 1})
		b, _ := r.browse("derp")
		b.login(r.public, key.NewNodePrivate())
		ctx := b.ws.CloseRead(t.Context())
		start := time.Now()
		// A ping has 6 bytes and the digits of a number, 9 on average at least. The burst is raised to the
		// largest frame, 65568 bytes. All are sent before a KeepAlive comes, which CloseRead does not expect.
		const pings = 8_000
		for range pings {
			if err := b.ws.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start).Seconds(); d < (9*pings-65_568)/1000 {
			t.Errorf("%d pings took %v s at 1 kB/s", pings, d)
		}
	})
}
