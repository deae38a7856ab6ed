package control

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
)

const testAddr = "10.0.0.1:80"

func TestConversation(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.early = "\xff\xff\xffTS\x00\x00\x00\x02{}"
		node := key.NewNodePrivate().Public()
		s.inner.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) {
			var req RegisterRequest
			json.NewDecoder(r.Body).Decode(&req)
			if req.Version != CapabilityVersion || req.NodeKey != node || r.UserAgent() != "ginnel/1.2.3" ||
				r.Host != "10.0.0.1" {
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
				if err == nil || want != nil && !errors.Is(err, want) || test.status != 200 &&
					(!isStatus || e.Code != test.status) {
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
		if e, ok := errors.AsType[*RefusedError](err); !ok || e.Reason != "invalid pre auth key?[2J" ||
			errors.Is(err, ErrUnreachable) {
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
				io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n")
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
				io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"+
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

// If a proxy on the way refuses the native upgrade, the client opens the channel by WebSocket.
func TestWebSocketFallback(t *testing.T) {
	bubble(t, func(t *testing.T, s *testServer) {
		s.inner.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") })
		s.inner.HandleFunc("POST /machine/map",
			func(w http.ResponseWriter, r *http.Request) { sendFrames(w, r, firstFrame(2000)) })
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

// Concurrent requests share one channel. After a GOAWAY of the server the next request opens
// another.
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
