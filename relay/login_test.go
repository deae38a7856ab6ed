package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// The request is that of the vectors, except for the order of the headers and the User-Agent, which
// do not matter.
func TestClientRequest(t *testing.T) {
	f := relaytest.LoadVectors(t)
	for name, extra := range map[string][]string{"http_request_upgrade": nil,
		"http_request_fast_start": {derp.HeaderFastStart + ": 1"}} {
		tg := &target{host: "derp.example", port: 443, path: "/derp"}
		if extra != nil {
			tg.ideal = "1a"
		}
		if got, want := headerLines(appendRequest(nil, tg, extra...)),
			headerLines(f.Find(t, name)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct{ url, host string }{
		{"https://h.example/derp", "h.example"}, {"https://h.example:444/derp", "h.example:444"},
		{"http://h.example/derp", "h.example"}, {"http://h.example:443/", "h.example:443"},
		{"https://[2001:db8::1]", "[2001:db8::1]"},
	} {
		tg, err := urlTarget(c.url)
		if err != nil || tg.hostHeader() != c.host || tg.path != "/derp" {
			t.Errorf("%s: got %+v, %v, want host %s", c.url, tg, err, c.host)
		}
	}
	for _, bad := range []string{"derp.example", "ftp://h/derp", "https:///derp", "https://h:99999/", "%"} {
		if tg, err := urlTarget(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, tg)
		}
	}
}

func headerLines(request []byte) []string {
	lines := strings.Split(strings.TrimSuffix(string(request), "\r\n\r\n"), "\r\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "User-Agent:") })
	slices.Sort(lines[1:])
	return lines
}

// "a client MUST keep the bytes its HTTP parser over-read" (1.6): the server sends everything in
// one write.
func TestClientKeepsOverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		k := key.NewNodePrivate()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := Dial(context.Background(), rawpeer.URL, ClientConfig{Key: k, DialContext: s.Net.DialContext})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if m := WantKind(t, c, MessagePacket); string(m.Data) != "early" {
				t.Errorf("got %q", m.Data)
			}
		}()
		p, _ := s.Accept()
		shared, _ := s.Key.Shared(k.Public())
		b := derp.AppendServerKey(derp.AppendSwitching(nil, s.Key.Public()), s.Key.Public())
		b = derp.AppendServerInfo(b, shared, derp.ServerInfo{Version: 2})
		packet := derp.AppendSendPacket(nil, k.Public(), []byte("early"))
		packet[0] = byte(derp.FrameRecvPacket)
		p.Write(append(b, packet...))
		<-done
	})
}

// Each mistake of a server during the login fails Dial, with an error that names the mistake.
func TestDialErrors(t *testing.T) {
	greeting := func(s *rawpeer.Server) []byte { return derp.AppendSwitching(nil, s.Key.Public()) }
	for name, c := range map[string]struct {
		serve func(s *rawpeer.Server, p *rawpeer.Peer)
		want  string
	}{
		"closes at once": {func(s *rawpeer.Server, p *rawpeer.Peer) {},
			"reading the answer to the upgrade: unexpected EOF"},
		"no HTTP": {func(s *rawpeer.Server, p *rawpeer.Peer) { p.Write([]byte("SSH-2.0\r\n\r\n")) },
			"malformed HTTP"},
		"no greeting": {func(s *rawpeer.Server, p *rawpeer.Peer) { p.Write(greeting(s)) },
			"reading the server's key: EOF"},
		"cut greeting": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write(append(greeting(s), derp.AppendServerKey(nil, s.Key.Public())[:20]...))
		}, "unexpected EOF"},
		"another frame": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write(append(greeting(s),
				derp.AppendKeepAlive(nil)...))
		}, "not that of a DERP server"},
		"long greeting": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write(derp.AppendHeader(greeting(s), derp.FrameServerKey, 1025))
		}, "not that of a DERP server"},
		"wrong magic": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write(append(derp.AppendHeader(greeting(s), derp.FrameServerKey, 40), make([]byte, 40)...))
		}, "not that of a DERP server"},
		"the zero key": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write(derp.AppendServerKey(greeting(s),
				key.NodePublic{}))
		}, "checking the server's key: key is all zero"},
		"text that a terminal would act upon": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write([]byte("HTTP/1.1 503 \x1b]0;mine\a busy\r\nContent-Length: 0\r\n\r\n"))
		}, "answered with HTTP/1.1 503 ?]0;mine? busy"},
		"endless header": {func(s *rawpeer.Server, p *rawpeer.Peer) {
			p.Write([]byte("HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("A: b\r\n",
				maxUpgradeAnswer/6) + "\r\n"))
		}, "reading the answer to the upgrade: unexpected EOF"},
		"silence": {func(s *rawpeer.Server, p *rawpeer.Peer) { time.Sleep(time.Minute) }, "context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := rawpeer.StartServer(t)
				go func() {
					p, _ := s.Accept()
					c.serve(s, p)
					p.Conn.Close()
				}()
				start := time.Now()
				_, err := Dial(t.Context(), rawpeer.URL, ClientConfig{Key: key.NewNodePrivate(),
					DialContext: s.Net.DialContext})
				if err == nil || !strings.Contains(err.Error(), c.want) ||
					!strings.Contains(err.Error(), "relay.example") {
					t.Errorf("got %v, want %q in it", err, c.want)
				}
				if d := time.Since(start); d > connectTimeout {
					t.Errorf("took %v", d)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// The context ends Dial at any point. It does not end the client that Dial has returned.
func TestDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		errc := make(chan error, 1)
		go func() {
			_, err := Dial(ctx, rawpeer.URL, ClientConfig{Key: key.NewNodePrivate(), DialContext: s.Net.DialContext})
			errc <- err
		}()
		p, _ := s.Accept()
		synctest.Wait()
		cancel()
		if err := <-errc; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		p.WantClosed()

		ctx, cancel = context.WithCancel(t.Context())
		k := key.NewNodePrivate()
		clientc := make(chan *Client)
		go func() {
			c, err := Dial(ctx, rawpeer.URL, ClientConfig{Key: k, DialContext: s.Net.DialContext})
			if err != nil {
				t.Error(err)
			}
			clientc <- c
		}()
		p, _, _ = s.AcceptLogin()
		c := <-clientc
		cancel()
		time.Sleep(time.Minute)
		p.Admit(k.Public(), derp.ServerInfo{})
		WantKind(t, c, MessageLoggedIn)
		c.Close()
	})
}

// A client that made a fast start recognises an HTTP answer (1.7).
func TestClientHTTPAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		p.Write([]byte("HTTP/1.1 403 Forbidden\r\nServer: proxy\r\n\r\n"))
		_, err := c.Recv()
		if ue, ok := errors.AsType[*upgradeError](err); !ok || !strings.Contains(ue.Error(), "403 Forbidden") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTransportNames(t *testing.T) {
	for tr, want := range map[Transport]string{TransportNone: "none", TransportNative: "native",
		TransportWebSocket: "websocket", TransportPlain: "plain"} {
		if tr.String() != want {
			t.Errorf("got %v, want %s", tr, want)
		}
	}
}

// The status of an HTTP answer in place of a frame decides whether WebSocket is tried.
func TestHTTPAnswer(t *testing.T) {
	for answer, refused := range map[string]bool{
		"HTTP/1.1 403 Forbidden\r\nServer: x\r\n": true,
		"HTTP/1.1 200 OK 503 429 \r\n":            true,
		"HTTP/1.1\r\n":                            true,
		"HTTP/1.1 503 Busy\r\n":                   false,
		"HTTP/1.1 503\r\n":                        false,
		"HTTP/1.0 429 Too Many Requests\r\n":      false,
	} {
		if err := httpAnswer([]byte(answer), nil); err == nil || refusedUpgrade(err) != refused {
			t.Errorf("%q: got %v, refused %v, want %v", answer, err, refusedUpgrade(err), refused)
		}
	}
	if err := httpAnswer([]byte("\x04\x00\x01\x00\x00"), nil); err != nil {
		t.Errorf("a frame: got %v", err)
	}
}
