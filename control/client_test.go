package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

const testAddr = "10.0.0.1:80"

// testServer is a coordination server on a network in memory, as far as a test wants one.
type testServer struct {
	t               *testing.T
	net             *memNet
	key             key.MachinePrivate
	http, innerHTTP *http.Server
	innerListener   *memListener
	wg              sync.WaitGroup

	outer *http.ServeMux                               // /key and /ts2021 unless replaced before start
	inner *http.ServeMux                               // inside of channels
	min   int                                          // capability version
	early string                                       // sent before HTTP/2
	enter func(w http.ResponseWriter, r *http.Request) // instead of accepting a channel
	ask   func(w http.ResponseWriter, r *http.Request) // instead of giving the key

	mu       sync.Mutex
	channels []net.Conn
}

func newTestServer(t *testing.T) *testServer {
	return &testServer{t: t, net: newMemNet(), key: key.NewMachinePrivate(), outer: http.NewServeMux(), inner: http.NewServeMux()}
}

// start serves until the test ends. It is called within the test's bubble.
func (s *testServer) start() {
	s.outer.HandleFunc("GET /key", func(w http.ResponseWriter, r *http.Request) {
		if s.ask != nil {
			s.ask(w, r)
			return
		}
		if r.URL.Query().Get("v") != "131" {
			s.t.Errorf("asked for the key with %q", r.URL.RawQuery)
		}
		json.NewEncoder(w).Encode(&ServerKeys{PublicKey: s.key.Public()})
	})
	s.outer.HandleFunc("/ts2021", s.channel)
	s.http = &http.Server{Handler: s.outer}
	ln := s.net.listen(testAddr)
	s.wg.Go(func() { s.http.Serve(ln) })
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s.innerHTTP = &http.Server{Handler: s.inner, Protocols: &protocols}
	s.innerListener = s.net.listen("channels")
	s.wg.Go(func() { s.innerHTTP.Serve(s.innerListener) })
	s.t.Cleanup(s.stop)
}

func (s *testServer) stop() {
	s.http.Close()
	s.innerHTTP.Close()
	s.hangUp()
	s.wg.Wait()
}

// hangUp ends all channels.
func (s *testServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.channels {
		c.Close()
	}
	s.channels = nil
}

func (s *testServer) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.channels)
}

func (s *testServer) channel(w http.ResponseWriter, r *http.Request) {
	if s.enter != nil {
		s.enter(w, r)
		return
	}
	c, err := Accept(r.Context(), w, r, AcceptConfig{Key: s.key, MinVersion: s.min})
	if err != nil {
		return
	}
	for _, part := range []string{s.early[:len(s.early)/2], s.early[len(s.early)/2:]} {
		c.Write([]byte(part))
	}
	s.mu.Lock()
	s.channels = append(s.channels, c)
	s.mu.Unlock()
	s.innerListener.connc <- c
}

// client returns one that dials s, with changes to its configuration.
func (s *testServer) client(change func(*ClientConfig)) *Client {
	cfg := ClientConfig{URL: "http://" + strings.TrimSuffix(testAddr, ":80"), MachineKey: key.NewMachinePrivate(), DialContext: s.net.DialContext,
		Version: "1.2.3", Log: slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// sendFrames answers a map request with frames and leaves the stream open until the client goes.
func sendFrames(w http.ResponseWriter, r *http.Request, frames ...*MapResponse) {
	for _, f := range frames {
		b, _ := AppendFrame(nil, f, CompressZstd)
		w.Write(b)
		w.(http.Flusher).Flush()
	}
	<-r.Context().Done()
}

func bubble(t *testing.T, f func(t *testing.T, s *testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newTestServer(t)) })
}

func TestConversation(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.early = "\xff\xff\xffTS\x00\x00\x00\x02{}"
		node := key.NewNodePrivate().Public()
		s.inner.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) {
			var req RegisterRequest
			json.NewDecoder(r.Body).Decode(&req)
			if req.Version != CapabilityVersion || req.NodeKey != node || r.UserAgent() != "ginnel/1.2.3" || r.Host != "10.0.0.1" {
				t.Errorf("request: got %+v from %q to %q", req, r.UserAgent(), r.Host)
			}
			json.NewEncoder(w).Encode(&RegisterResponse{Login: Login{LoginName: "me"}, NodeKeyExpired: !req.Expiry.IsZero()})
		})
		var updates int
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
			var req MapRequest
			json.NewDecoder(r.Body).Decode(&req)
			if !req.Stream {
				updates++
				if !req.OmitPeers || req.Version != CapabilityVersion {
					t.Errorf("update: got %+v", req)
				}
				return
			}
			if req.Compress != CompressZstd || !req.KeepAlive || req.OmitPeers {
				t.Errorf("stream: got %+v", req)
			}
			sendFrames(w, r, firstFrame(2), &MapResponse{KeepAlive: true}, &MapResponse{PeersRemoved: []int64{1}})
		})
		s.start()
		c := s.client(nil)
		got, err := c.Register(t.Context(), RegisterRequest{NodeKey: node})
		if err != nil || got.Login.LoginName != "me" {
			t.Fatalf("Register: %+v, %v", got, err)
		}
		var peers []int
		for m, err := range c.Poll(t.Context(), MapRequest{NodeKey: node}) {
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Update(t.Context(), MapRequest{NodeKey: node, Stream: true}); err != nil {
				t.Errorf("Update: %v", err)
			}
			if peers = append(peers, len(m.Peers)); len(peers) == 2 {
				break
			}
		}
		if len(peers) != 2 || peers[0] != 2 || peers[1] != 1 || updates != 2 {
			t.Errorf("got peers %v and %d updates", peers, updates)
		}
		if err := c.Logout(t.Context(), RegisterRequest{NodeKey: node}); err != nil {
			t.Errorf("Logout: %v", err)
		}
		if n := s.opened(); n != 1 {
			t.Errorf("%d channels for it all, want 1", n)
		}
		if k, err := c.ServerKey(t.Context()); err != nil || k != s.key.Public() {
			t.Errorf("ServerKey: %v, %v", k, err)
		}
		c.Close()
		if _, err := c.Register(t.Context(), RegisterRequest{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		for _, err := range c.Poll(t.Context(), MapRequest{}) {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
}

func TestAnswersOfServer(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		var status int
		var header, body string
		s.inner.HandleFunc("POST /machine/{what}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
		s.start()
		c := s.client(nil)
		for _, test := range []struct {
			status       int
			header, body string
			register     error
			poll         error
		}{
			{status: 401, body: "no", register: ErrUnauthorized, poll: ErrUnauthorized},
			{status: 403, register: ErrUnauthorized, poll: ErrUnauthorized},
			{status: 400, body: "unsupported client version: 131", register: ErrVersionRefused},
			{status: 404, body: "gone", poll: ErrUnknownNode},
			{status: 500, body: strings.Repeat("x\n", 5000)},
			{status: 200, body: "no JSON", register: ErrUnreachable, poll: errStream},
			{status: 200, body: strings.Repeat(" ", maxAnswer+1), register: ErrUnreachable, poll: errStream},
			{status: 200, body: "", register: ErrUnreachable, poll: ErrUnreachable},
			{status: 200, body: "\x02\x00\x00\x00{}", register: ErrUnreachable, poll: errStream},
		} {
			status, header, body = test.status, test.header, test.body
			_, err := c.Register(t.Context(), RegisterRequest{})
			check := func(name string, err, want error) {
				t.Helper()
				e, isStatus := errors.AsType[*StatusError](err)
				if err == nil || want != nil && !errors.Is(err, want) || test.status != 200 && (!isStatus || e.Code != test.status) {
					t.Errorf("%s with status %d: got %v, want %v", name, test.status, err, want)
				}
				if len(err.Error()) > 500 {
					t.Errorf("%s: the error is too long: %d bytes", name, len(err.Error()))
				}
			}
			check("register", err, test.register)
			for _, err := range c.Poll(t.Context(), MapRequest{}) {
				check("poll", err, test.poll)
			}
		}
		status, header = 429, "7"
		_, err := c.Register(t.Context(), RegisterRequest{})
		if e, ok := errors.AsType[*RateLimitError](err); !ok || e.RetryAfter != 7*time.Second {
			t.Errorf("429: got %v", err)
		}
		status, header, body = 200, "", `{"Error":"invalid pre auth key\u001b[2J"}`
		_, err = c.Register(t.Context(), RegisterRequest{})
		if e, ok := errors.AsType[*RefusedError](err); !ok || e.Reason != "invalid pre auth key [2J" || errors.Is(err, ErrUnreachable) {
			t.Errorf("refusal: got %q", err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"0": 0, "12": 12 * time.Second, "3600": time.Hour, "3601": 7500 * time.Millisecond, "-1": 7500 * time.Millisecond,
		"": 7500 * time.Millisecond, "soon": 7500 * time.Millisecond, "99999999999999999999": 7500 * time.Millisecond,
		"Sun, 22 Nov 2026 12:01:00 GMT": time.Minute, "Sun, 22 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(text, now, 0.5); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	// "n-th consecutive failure waits min(n²·10 ms, 30 s) × random(0.5…1.5)" (9.1)
	for n, want := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 90 * time.Millisecond} {
		if got := b.Next(0.5); got != want {
			t.Errorf("failure %d: wait %v, want %v", n+1, got, want)
		}
	}
	for range 5000 {
		b.Next(0)
	}
	if lo, hi := b.Next(0), b.Next(0.999); lo != 15*time.Second || hi < 44*time.Second || hi > 45*time.Second {
		t.Errorf("at most: got %v to %v", lo, hi)
	}
	b.Reset()
	if got := b.Next(0.5); got != 10*time.Millisecond {
		t.Errorf("after Reset: %v", got)
	}
}

func TestRefusedHandshakes(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(*testServer)
		client func(*ClientConfig)
		want   error
	}{
		{"version", func(s *testServer) { s.min = 200 }, nil, ErrVersionRefused},
		{"hung up", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n")
				conn.Close()
			}
		}, nil, ErrVersionRefused},
		{"another protocol", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Upgrade", "other")
				w.WriteHeader(101)
			}
		}, nil, ErrUnreachable},
		{"no upgrade", func(s *testServer) { s.enter = http.NotFound }, nil, ErrUnreachable},
		{"garbage", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"+
					strings.Repeat("garbage", 100))
				conn.Close()
			}
		}, nil, ErrUnreachable},
		{"endless head", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				defer conn.Close()
				for err := error(nil); err == nil; {
					_, err = io.WriteString(conn, "HTTP/1.1 101 "+strings.Repeat("x", 1000))
				}
			}
		}, nil, ErrUnreachable},
		{"no server", nil, nil, ErrUnreachable},
		{"no key", func(s *testServer) { s.ask = http.NotFound }, nil, ErrUnreachable},
		{"captive portal", func(s *testServer) {
			s.ask = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://10.0.0.9/login", http.StatusFound)
			}
		}, nil, ErrUnreachable},
		{"key of nobody", func(s *testServer) {
			s.ask = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }
		}, nil, ErrUnreachable},
		{"endless key", func(s *testServer) {
			s.ask = func(w http.ResponseWriter, r *http.Request) {
				for err := error(nil); err == nil; {
					_, err = io.WriteString(w, strings.Repeat(" ", 1000))
				}
			}
		}, nil, ErrUnreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *testServer) {
				if test.server != nil {
					test.server(s)
					s.start()
				}
				c := s.client(test.client)
				if _, err := c.Register(t.Context(), RegisterRequest{}); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				} else {
					t.Log(err)
				}
			})
		})
	}
}

func TestServerKeyChanged(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.start()
		known := key.NewMachinePrivate().Public()
		c := s.client(func(cfg *ClientConfig) { cfg.ServerKey = known })
		_, err := c.Register(t.Context(), RegisterRequest{})
		if e, ok := errors.AsType[*KeyChangedError](err); !ok || e.Known != known || e.Now != s.key.Public() {
			t.Errorf("got %v", err)
		}
	})
}

// A server that says nothing, wherever it stops, is given up.
func TestSilentServer(t *testing.T) {
	stall := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, test := range []struct {
		name   string
		server func(*testServer)
		limit  time.Duration
	}{
		{"key", func(s *testServer) { s.ask = stall }, 11 * time.Second},
		{"upgrade", func(s *testServer) { s.enter = stall }, 11 * time.Second},
		{"response", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				defer conn.Close()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n\x02")
				io.Copy(io.Discard, conn)
			}
		}, 11 * time.Second},
		{"HTTP/2", func(s *testServer) {
			s.enter = func(w http.ResponseWriter, r *http.Request) {
				if c, err := Accept(r.Context(), w, r, AcceptConfig{Key: s.key}); err == nil {
					defer c.Close()
					io.Copy(io.Discard, c)
				}
			}
		}, channelIdle + channelPing + time.Second},
		{"answer", func(s *testServer) { s.inner.HandleFunc("/machine/register", stall) }, requestTimeout + time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *testServer) {
				test.server(s)
				s.start()
				start := time.Now()
				_, err := s.client(nil).Register(t.Context(), RegisterRequest{})
				if took := time.Since(start); !errors.Is(err, ErrUnreachable) || took > test.limit {
					t.Errorf("after %v: %v", took, err)
				} else {
					t.Log(took, err)
				}
			})
		})
	}
}

func TestWatchdogAndReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		var frames atomic.Pointer[[]*MapResponse]
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) { sendFrames(w, r, *frames.Load()...) })
		s.start()
		c := s.client(nil)
		poll := func() (maps int, err error) {
			for _, e := range c.Poll(t.Context(), MapRequest{}) {
				if err = e; e == nil {
					maps++
				}
			}
			return maps, err
		}
		// "120 s without a frame (also covers waiting for the response head)" (9.1)
		for _, sent := range [][]*MapResponse{nil, {firstFrame(1)}} {
			frames.Store(&sent)
			start := time.Now()
			maps, err := poll()
			if took := time.Since(start); maps != len(sent) || !errors.Is(err, errSilent) || !errors.Is(err, ErrUnreachable) || took != watchdogTimeout {
				t.Errorf("%d frames: got %d maps and %v after %v", len(sent), maps, err, took)
			}
		}
		if n := s.opened(); n != 2 {
			t.Errorf("%d channels, want one for each stream", n)
		}
		// The server goes while the stream is open, and the next poll dials again.
		time.AfterFunc(time.Minute, s.hangUp)
		if maps, err := poll(); maps != 1 || !errors.Is(err, ErrUnreachable) || errors.Is(err, errSilent) {
			t.Errorf("hung up: got %d maps and %v", maps, err)
		}
		time.AfterFunc(time.Minute, s.hangUp)
		if maps, err := poll(); maps != 1 || !errors.Is(err, ErrUnreachable) {
			t.Errorf("after a reconnect: got %d maps and %v", maps, err)
		}
	})
}

// A slow caller is no silent server.
func TestWatchdogDoesNotWatchTheCaller(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
			sendFrames(w, r, firstFrame(1), &MapResponse{Domain: "a"}, &MapResponse{Domain: "b"})
		})
		s.start()
		n := 0
		for _, err := range s.client(nil).Poll(t.Context(), MapRequest{}) {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			if n++; n == 3 {
				break
			}
		}
	})
}

func TestStreamEnds(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
			b, _ := AppendFrame(nil, firstFrame(1), CompressZstd)
			w.Write(b)
		})
		s.start()
		c := s.client(nil)
		for range 2 {
			var last error
			for _, err := range c.Poll(t.Context(), MapRequest{}) {
				last = err
			}
			if !errors.Is(last, ErrStreamEnded) || !errors.Is(last, ErrUnreachable) {
				t.Errorf("got %v", last)
			}
		}
		if n := s.opened(); n != 1 {
			t.Errorf("%d channels, want 1: it was not at fault", n)
		}
	})
}

// Close, and a context, end a call wherever it waits.
func TestEndDuringEveryCall(t *testing.T) {
	stall := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	servers := map[string]func(*testServer){
		"dial": func(s *testServer) {
			s.net.listeners = map[string]*memListener{testAddr: {connc: make(chan net.Conn), donec: make(chan struct{})}}
		},
		"handshake": func(s *testServer) { s.enter = stall },
		"answer": func(s *testServer) {
			s.inner.HandleFunc("/machine/register", stall)
			s.inner.HandleFunc("/machine/map", stall)
		},
		"frame": func(s *testServer) {
			s.inner.HandleFunc("/machine/register", stall)
			s.inner.HandleFunc("/machine/map", func(w http.ResponseWriter, r *http.Request) { sendFrames(w, r, firstFrame(1)) })
		},
	}
	calls := map[string]func(*Client, context.Context) error{
		"register": func(c *Client, ctx context.Context) error {
			_, err := c.Register(ctx, RegisterRequest{Followup: "u"})
			return err
		},
		"poll": func(c *Client, ctx context.Context) (last error) {
			for _, err := range c.Poll(ctx, MapRequest{}) {
				last = err
			}
			return last
		},
	}
	for at, prepare := range servers {
		for name, call := range calls {
			for _, how := range []string{"Close", "context"} {
				t.Run(at+"/"+name+"/"+how, func(t *testing.T) {
					bubble(t, func(t *testing.T, s *testServer) {
						prepare(s)
						if at != "dial" {
							s.start()
						}
						c := s.client(func(cfg *ClientConfig) {
							if at == "handshake" || at == "dial" {
								cfg.ServerKey = s.key.Public()
							}
						})
						ctx, cancel := context.WithCancel(t.Context())
						start, want := time.Now(), net.ErrClosed
						end := func() { c.Close() }
						if how == "context" {
							end, want = cancel, context.Canceled
						}
						time.AfterFunc(time.Second, end)
						err := call(c, ctx)
						if took := time.Since(start); !errors.Is(err, want) || errors.Is(err, ErrUnreachable) || took != time.Second {
							t.Errorf("after %v: %v", took, err)
						}
						cancel()
					})
				})
			}
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	machine, server := key.NewMachinePrivate(), key.NewMachinePrivate().Public()
	for _, test := range []struct {
		url    string
		pinned key.MachinePublic
		ok     bool
	}{
		{"https://hs.example.com", key.MachinePublic{}, true},
		{"https://hs.example.com:8443///", key.MachinePublic{}, true},
		{"http://hs.example.com", key.MachinePublic{}, false},
		{"http://hs.example.com", server, true},
		{"http://8.8.8.8", key.MachinePublic{}, false},
		{"http://127.0.0.1:8080", key.MachinePublic{}, true},
		{"http://[::1]:8080", key.MachinePublic{}, true},
		{"http://[fd00::1]", key.MachinePublic{}, true},
		{"http://localhost", key.MachinePublic{}, true},
		{"http://192.168.1.1", key.MachinePublic{}, true},
		{"ftp://hs.example.com", server, false},
		{"hs.example.com", server, false},
		{"https://", server, false},
		{"https://user:secret@hs.example.com", server, false},
		{"https://hs.example.com/path", server, false},
		{"https://hs.example.com?q", server, false},
		{"https://hs.example.com:port", server, false},
	} {
		_, err := NewClient(ClientConfig{URL: test.url, MachineKey: machine, ServerKey: test.pinned})
		if (err == nil) != test.ok || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want success %v", test.url, err, test.ok)
		}
	}
	if _, err := NewClient(ClientConfig{URL: "https://a"}); err == nil {
		t.Error("a client without a machine key")
	}
}

// A device on the way that passes only WebSockets does not keep nodes out.
func TestWebSocketFallback(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.inner.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") })
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) { sendFrames(w, r, firstFrame(2000)) })
		s.outer.HandleFunc("POST /ts2021", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no", http.StatusBadGateway)
		})
		s.start()
		c := s.client(nil)
		if _, err := c.Register(t.Context(), RegisterRequest{}); err != nil {
			t.Fatal(err)
		}
		for m, err := range c.Poll(t.Context(), MapRequest{}) {
			if err != nil || len(m.Peers) != 2000 {
				t.Fatalf("got %v", err)
			}
			break
		}
	})
}

func TestPings(t *testing.T) {
	type answered struct{ method, host, path, body string }
	for _, test := range []struct {
		name string
		ping PingRequest
		want []answered
	}{
		{"outer", PingRequest{URL: "http://10.0.0.1/p?id=1", Log: true}, []answered{{"HEAD", "10.0.0.1", "/p?id=1", ""}}},
		{"third party", PingRequest{URL: "http://10.0.0.2/p"}, nil},
		{"no URL", PingRequest{URL: "::"}, nil},
		{"noise", PingRequest{URL: "https://unused/p", URLIsNoise: true}, []answered{{"HEAD", "unused", "/p", ""}}},
		{"echo", PingRequest{URL: "https://unused/p", Types: "c2n", Payload: []byte("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"}}},
		{"control", PingRequest{URL: "https://unused/p", Types: "c2n", Payload: []byte("POST /update HTTP/1.1\r\nHost: x\r\n\r\n")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\nunknown request\n"}}},
		{"no request", PingRequest{URL: "https://unused/p", Types: "c2n", Payload: []byte("\x00")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\nunknown request\n"}}},
		{"ways", PingRequest{URL: "https://unused/p", URLIsNoise: true, Types: "disco,TSMP", IP: netip.MustParseAddr("100.64.0.2")}, []answered{
			{"POST", "unused", "/p", `{"Type":"disco","IP":"100.64.0.2","LatencySeconds":0.5}`},
			{"POST", "unused", "/p", `{"Type":"TSMP","IP":"100.64.0.2","LatencySeconds":0.5}`}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *testServer) {
				var mu sync.Mutex
				var got []answered
				handle := func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					mu.Lock()
					defer mu.Unlock()
					got = append(got, answered{r.Method, r.Host, r.URL.RequestURI(), string(body)})
				}
				s.inner.HandleFunc("/p", handle)
				s.outer.HandleFunc("/p", handle)
				s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
					sendFrames(w, r, firstFrame(1), &MapResponse{KeepAlive: true, PingRequest: &test.ping},
						&MapResponse{PingRequest: &test.ping})
				})
				s.start()
				c := s.client(func(cfg *ClientConfig) {
					cfg.Ping = func(_ context.Context, kind string, ip netip.Addr) PingResponse {
						return PingResponse{Type: kind, IP: ip.String(), LatencySeconds: 0.5}
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for range c.Poll(ctx, MapRequest{}) {
				}
				mu.Lock()
				defer mu.Unlock()
				if len(got) != len(test.want) {
					t.Fatalf("got %q, want %q", got, test.want)
				}
				for i := range got {
					if got[i] != test.want[i] {
						t.Errorf("got %q, want %q", got[i], test.want[i])
					}
				}
			})
		})
	}
}

func TestPingLimit(t *testing.T) {
	var l pingLimit
	for i, c := range []struct {
		url  string
		want bool
	}{{"", false}, {"a", true}, {"a", false}, {"b", true}, {"c", true}, {"d", true}, {"e", false}} {
		if got := l.admit(c.url); got != c.want {
			t.Errorf("ping %d (%q): admitted %v, want %v", i, c.url, got, c.want)
		}
	}
	l.done()
	if !l.admit("e") {
		t.Error("no room after one was done")
	}
}

// However many ask at once, one channel is opened, and another when the server has taken its leave.
func TestChannelIsShared(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.inner.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second) })
		s.start()
		c := s.client(nil)
		for round := range 3 {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if err := c.Update(t.Context(), MapRequest{}); err != nil {
						t.Errorf("Update: %v", err)
					}
				})
			}
			wg.Wait()
			if n := s.opened(); n != 1 {
				t.Errorf("round %d: %d channels", round, n)
			}
			s.hangUp()
			synctest.Wait()
		}
	})
}
