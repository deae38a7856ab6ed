package control

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"ginnel/key"
)

// testServer is a minimal coordination server on a network in memory.
type testServer struct {
	t               *testing.T
	net             *memNet
	key             key.MachinePrivate
	http, innerHTTP *http.Server
	innerListener   *memListener
	wg              sync.WaitGroup

	outer *http.ServeMux                               // /key and /ts2021 unless replaced before start
	inner *http.ServeMux                               // inside channels
	min   int                                          // lowest capability version that is accepted
	early string                                       // sent before HTTP/2
	enter func(w http.ResponseWriter, r *http.Request) // replaces the acceptance of a channel
	ask   func(w http.ResponseWriter, r *http.Request) // replaces the answer with the server's key

	mu       sync.Mutex
	channels []net.Conn
}

func newTestServer(t *testing.T) *testServer {
	return &testServer{t: t, net: newMemNet(), key: key.NewMachinePrivate(), outer: http.NewServeMux(),
		inner: http.NewServeMux()}
}

// start serves until the test ends. It must be called inside the test's synctest bubble.
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

// hangUp closes all channels.
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

// client returns a Client of s. change may modify its configuration.
func (s *testServer) client(change func(*ClientConfig)) *Client {
	cfg := ClientConfig{URL: "http://" + strings.TrimSuffix(testAddr, ":80"), MachineKey: key.NewMachinePrivate(),
		DialContext: s.net.DialContext,
		Version:     "1.2.3", Log: slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
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

// sendFrames answers a map request with frames and keeps the stream open until the client ends it.
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
