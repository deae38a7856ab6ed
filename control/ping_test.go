package control

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"
)

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
		{"echo", PingRequest{URL: "https://unused/p", Types: "c2n",
			Payload: []byte("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"}}},
		{"control", PingRequest{URL: "https://unused/p", Types: "c2n",
			Payload: []byte("POST /update HTTP/1.1\r\nHost: x\r\n\r\n")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\nunknown request\n"}}},
		{"no request", PingRequest{URL: "https://unused/p", Types: "c2n", Payload: []byte("\x00")},
			[]answered{{"POST", "unused", "/p", "HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\nunknown request\n"}}},
		{"ways", PingRequest{URL: "https://unused/p", URLIsNoise: true, Types: "disco,TSMP",
			IP: netip.MustParseAddr("100.64.0.2")}, []answered{
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
