package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// A server that falls silent at any step of a call makes the call fail in time.
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
				io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n\x02")
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
		s.inner.HandleFunc("POST /machine/map",
			func(w http.ResponseWriter, r *http.Request) { sendFrames(w, r, *frames.Load()...) })
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
			if took := time.Since(start); maps != len(sent) || !errors.Is(err, errSilent) || !errors.Is(err, ErrUnreachable) ||
				took != watchdogTimeout {
				t.Errorf("%d frames: got %d maps and %v after %v", len(sent), maps, err, took)
			}
		}
		if n := s.opened(); n != 2 {
			t.Errorf("%d channels, want one for each stream", n)
		}
		// The server closes its connections while a stream is open. The next poll dials again.
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

// A caller that takes long between frames does not trigger the watchdog.
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

// Close and the context end a call at any step at which it waits.
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
