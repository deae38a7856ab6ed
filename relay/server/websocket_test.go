package server

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"ginnel/internal/wsstream"
	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// browser is a WebSocket client of another library user: a page in a browser.
type browser struct {
	t  *testing.T
	ws *websocket.Conn
}

// browse opens a WebSocket as a page of another origin does.
func (r *memRelay) browse(protocols ...string) (*browser, *http.Response) {
	r.T.Helper()
	ws, resp, err := websocket.Dial(r.T.Context(), "ws://relay.example/derp", &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: &http.Transport{DialContext: r.Net.DialContext}},
		HTTPHeader:      http.Header{"Origin": {"https://elsewhere.example"}},
		Subprotocols:    protocols,
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		r.T.Fatal(err)
	}
	ws.SetReadLimit(wsstream.MaxMessage)
	r.T.Cleanup(func() { ws.CloseNow() })
	return &browser{r.T, ws}, resp
}

// login logs in with a frame that is split into several messages.
func (b *browser) login(server key.NodePublic, k key.NodePrivate) []byte {
	b.t.Helper()
	stream := b.read(nil, derp.HeaderSize+40)
	if got, err := derp.ParseServerKey(stream[derp.HeaderSize:]); err != nil || got != server {
		b.t.Fatalf("greeting: %v, %v", got, err)
	}
	shared, err := k.Shared(server)
	if err != nil {
		b.t.Fatal(err)
	}
	hello := derp.AppendClientInfo(nil, k.Public(), shared, derp.ClientInfo{Version: 2})
	for _, part := range [][]byte{hello[:3], hello[3:40], nil, hello[40:]} {
		b.write(part)
	}
	info := b.read(nil, derp.HeaderSize+24+16+len(`{"version":2}`))
	if got, err := derp.OpenServerInfo(shared, info[derp.HeaderSize:]); err != nil || got.Version != 2 {
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

// read appends messages to stream until it has n bytes.
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
		r := startMemRelay(t, Config{MeshKey: testMeshKey})
		watcher := r.MeshClient()
		watcher.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		watcher.WantPresent()
		b, resp := r.browse("other", "derp")
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "derp" ||
			resp.Header.Get("Sec-WebSocket-Extensions") != "" || resp.Header.Get("Derp-Version") != "" {
			t.Errorf("answer %+v", resp.Header)
		}
		k := key.NewNodePrivate()
		b.login(r.public, k)
		if got := watcher.WantPresent(); got.Peer != k.Public() || got.Addr.Addr().String() != "198.51.100.1" ||
			got.Flags != derp.PresentRegular {
			t.Errorf("announced as %+v", got)
		}
		synctest.Wait() // it is counted after it is announced
		r.wantMetric(t, `ginnel_relay_accepted_connections_total{transport="websocket"}`, 1)

		// Packets larger than a message reach it in several, and come from it in several.
		native := r.Client()
		for _, size := range []int{0, 1400, wsstream.MaxMessage, derp.MaxPacket} {
			packet := strings.Repeat("p", size)
			native.Send(k.Public(), packet)
			got := b.read(nil, derp.SendOverhead+size)
			if string(got[derp.SendOverhead:]) != packet || key.NodePublic(got[derp.HeaderSize:]) != native.Public() {
				t.Errorf("packet of %d bytes changed", size)
			}
			frame := derp.AppendSendPacket(nil, native.Public(), []byte(packet))
			for len(frame) > 0 {
				n := min(len(frame), 30_000)
				b.write(frame[:n])
				frame = frame[n:]
			}
			native.WantPacket(k.Public(), packet)
		}
		time.Sleep((keepAliveMin + keepAliveSpread + 1) * keepAliveTick)
		if got := b.read(nil, derp.HeaderSize); got[0] != byte(derp.FrameKeepAlive) {
			t.Errorf("got %x, want a KeepAlive", got)
		}
		native.WantFrame(derp.FrameKeepAlive)
		watcher.WantPresent() // native
		watcher.WantFrame(derp.FrameKeepAlive)

		b.ws.Close(websocket.StatusGoingAway, "")
		native.WantGone(k.Public(), derp.GoneDisconnected)
		watcher.WantGone(k.Public(), derp.GoneDisconnected)
	})
}

// A violation of the protocol closes the WebSocket with the matching status.
func TestWebSocketRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		for name, c := range map[string]struct {
			do   func(b *browser)
			want websocket.StatusCode
		}{
			"text": {func(b *browser) { b.ws.Write(t.Context(), websocket.MessageText, []byte("hello")) },
				websocket.StatusUnsupportedData},
			"too large": {func(b *browser) { b.write(make([]byte, wsstream.MaxMessage+1)) },
				websocket.StatusMessageTooBig},
			"forbidden frame": {func(b *browser) { b.write(derp.AppendHeader(nil, derp.FrameWatchConns, 0)) },
				websocket.StatusNormalClosure},
		} {
			b, _ := r.browse("derp")
			b.login(r.public, key.NewNodePrivate())
			c.do(b)
			_, _, err := b.ws.Read(t.Context())
			if got := websocket.CloseStatus(err); got != c.want &&
				!(c.want == websocket.StatusNormalClosure && err != nil) {
				t.Errorf("%s: closed with %v (%v), want %v", name, got, err, c.want)
			}
		}
	})
}

// An upgrade to WebSocket must offer the subprotocol as a token of its list. Other upgrades speak
// native frames, as very old clients do (1.8).
func TestWebSocketSubprotocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		for list, want := range map[string]string{"derp": "derp", "a, derp": "derp", "DERP": "DERP", "xderp": "",
			"a,derpy": "", "": ""} {
			resp := r.Get("GET", "/derp", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
				"Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Protocol": {list}})
			upgrade := map[bool]string{true: "websocket", false: "DERP"}[want != ""]
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != want || resp.Header.Get("Upgrade") != upgrade {
				t.Errorf("%q: got subprotocol %q of %q, want %q of %q", list, got, resp.Header.Get("Upgrade"), want,
					upgrade)
			}
		}
	})
}

// WebSocket pings, which the library answers, count against the rate of a client.
func TestWebSocketPingsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{ClientRate: 1000, ClientBurst: 1})
		b, _ := r.browse("derp")
		b.login(r.public, key.NewNodePrivate())
		ctx := b.ws.CloseRead(t.Context())
		start := time.Now()
		// A ping has 6 bytes and the digits of a number, 9 on average at least. The burst is raised to
		// the largest frame, 65568 bytes. All are sent before a KeepAlive comes, which CloseRead does not
		// expect.
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
