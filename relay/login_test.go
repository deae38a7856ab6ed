package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

func TestClientRequest(t *testing.T) {
	f := loadVectors(t)
	for name, extra := range map[string][]string{"http_request_upgrade": nil, "http_request_fast_start": {headerFastStart + ": 1"}} {
		tg := &target{host: "derp.example", port: 443, path: "/derp"}
		if extra != nil {
			tg.ideal = "1a"
		}
		if got, want := headerLines(appendRequest(nil, tg, extra...)), headerLines(f.find(t, name)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct{ url, host string }{
		{"https://h.example/derp", "h.example"}, {"https://h.example:444/derp", "h.example:444"},
		{"http://h.example/derp", "h.example"}, {"http://h.example:443/", "h.example:443"}, {"https://[2001:db8::1]", "[2001:db8::1]"},
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

func TestClientKeepsOverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startRawServer(t)
		k := key.NewNodePrivate()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := Dial(context.Background(), memURL, ClientConfig{Key: k, DialContext: s.net.DialContext})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if m := wantKind(t, c, MessagePacket); string(m.Data) != "early" {
				t.Errorf("got %q", m.Data)
			}
		}()
		p, _ := s.accept()
		shared, _ := s.key.Shared(k.Public())
		b := appendServerKey((&Server{public: s.key.Public()}).appendSwitching(nil), s.key.Public())
		b = appendServerInfo(b, shared, serverInfo{Version: 2})
		packet := appendSendPacket(nil, k.Public(), []byte("early"))
		packet[0] = byte(frameRecvPacket)
		p.write(append(b, packet...))
		<-done
	})
}

func TestDialErrors(t *testing.T) {
	greeting := func(s *rawServer) []byte { return (&Server{public: s.key.Public()}).appendSwitching(nil) }
	for name, c := range map[string]struct {
		serve func(s *rawServer, p *rawPeer)
		want  string
	}{
		"closes at once": {func(s *rawServer, p *rawPeer) {}, "reading the answer to the upgrade: unexpected EOF"},
		"no HTTP":        {func(s *rawServer, p *rawPeer) { p.write([]byte("SSH-2.0\r\n\r\n")) }, "malformed HTTP"},
		"no greeting":    {func(s *rawServer, p *rawPeer) { p.write(greeting(s)) }, "reading the server's key: EOF"},
		"cut greeting": {func(s *rawServer, p *rawPeer) {
			p.write(append(greeting(s), appendServerKey(nil, s.key.Public())[:20]...))
		}, "unexpected EOF"},
		"another frame": {func(s *rawServer, p *rawPeer) { p.write(append(greeting(s), keepAliveFrame...)) }, "not that of a DERP server"},
		"long greeting": {func(s *rawServer, p *rawPeer) { p.write(appendHeader(greeting(s), frameServerKey, 1025)) }, "not that of a DERP server"},
		"wrong magic": {func(s *rawServer, p *rawPeer) {
			p.write(append(appendHeader(greeting(s), frameServerKey, 40), make([]byte, 40)...))
		}, "not that of a DERP server"},
		"the zero key": {func(s *rawServer, p *rawPeer) { p.write(appendServerKey(greeting(s), key.NodePublic{})) }, "checking the server's key: key is all zero"},
		"text that a terminal would act upon": {func(s *rawServer, p *rawPeer) {
			p.write([]byte("HTTP/1.1 503 \x1b]0;mine\a busy\r\nContent-Length: 0\r\n\r\n"))
		}, "answered with HTTP/1.1 503 ?]0;mine? busy"},
		"endless header": {func(s *rawServer, p *rawPeer) {
			p.write([]byte("HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("A: b\r\n", maxUpgradeAnswer/6) + "\r\n"))
		}, "reading the answer to the upgrade: unexpected EOF"},
		"silence": {func(s *rawServer, p *rawPeer) { time.Sleep(time.Minute) }, "context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startRawServer(t)
				go func() {
					p, _ := s.accept()
					c.serve(s, p)
					p.conn.Close()
				}()
				start := time.Now()
				_, err := Dial(t.Context(), memURL, ClientConfig{Key: key.NewNodePrivate(), DialContext: s.net.DialContext})
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "relay.example") {
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

func TestDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startRawServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		errc := make(chan error, 1)
		go func() {
			_, err := Dial(ctx, memURL, ClientConfig{Key: key.NewNodePrivate(), DialContext: s.net.DialContext})
			errc <- err
		}()
		p, _ := s.accept()
		synctest.Wait()
		cancel()
		if err := <-errc; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		p.wantClosed()

		ctx, cancel = context.WithCancel(t.Context())
		k := key.NewNodePrivate()
		clientc := make(chan *Client)
		go func() {
			c, err := Dial(ctx, memURL, ClientConfig{Key: k, DialContext: s.net.DialContext})
			if err != nil {
				t.Error(err)
			}
			clientc <- c
		}()
		p, _, _ = s.acceptLogin()
		c := <-clientc
		cancel()
		time.Sleep(time.Minute)
		p.admit(k.Public(), serverInfo{})
		wantKind(t, c, messageLoggedIn)
		c.Close()
	})
}

func TestClientHTTPAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startRawServer(t)
		c, p := s.clientOf(ClientConfig{})
		p.write([]byte("HTTP/1.1 403 Forbidden\r\nServer: proxy\r\n\r\n"))
		_, err := c.Recv()
		if ue, ok := errors.AsType[*upgradeError](err); !ok || !strings.Contains(ue.Error(), "403 Forbidden") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTransportNames(t *testing.T) {
	for tr, want := range map[Transport]string{TransportNone: "none", TransportNative: "native", TransportWebSocket: "websocket", TransportPlain: "plain"} {
		if tr.String() != want {
			t.Errorf("got %v, want %s", tr, want)
		}
	}
}

// An answer in HTTP where a frame should begin tells whether WebSocket is worth trying.
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
