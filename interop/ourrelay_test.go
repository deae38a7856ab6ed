package interop

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"ginnel/key"
	relayserver "ginnel/relay/server"
)

// ourRelay is a Ginnel relay.
type ourRelay struct{ *relayserver.Server }

func (r ourRelay) handler() http.Handler                  { return r.Server }
func (r ourRelay) tlsConfig(base *tls.Config) *tls.Config { return r.TLSConfig(base) }
func (r ourRelay) publicKey() key.NodePublic              { return r.PublicKey() }
func (r ourRelay) listener(ln net.Listener, conf *tls.Config) net.Listener {
	return r.Listener(ln, conf)
}
func (r ourRelay) close() { r.Close() }

// startOurRelay serves a Ginnel relay until the test ends, with a new key unless cfg has one.
func startOurRelay(tb testing.TB, cfg relayserver.Config) *relayHost {
	tb.Helper()
	return startFronts(tb, "our relay", newOurRelay(tb, cfg))
}

func newOurRelay(tb testing.TB, cfg relayserver.Config) ourRelay {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	cfg.Log = testLog(tb, "our relay")
	s, err := relayserver.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return ourRelay{s}
}

// serveOurSTUN adds our relay's STUN service.
func serveOurSTUN(tb testing.TB, h *relayHost) {
	tb.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{}) // both address families, as a relay listens
	if err != nil {
		tb.Fatal(err)
	}
	h.stun = pc.LocalAddr().(*net.UDPAddr).Port
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		h.server.(ourRelay).ServeSTUN(pc)
	}()
	tb.Cleanup(func() {
		pc.Close()
		<-donec
	})
}

// testLog logs to the test's output until the test ends. Later lines are dropped, because
// goroutines of WireGuard may still log while they end.
func testLog(tb testing.TB, who string) *slog.Logger {
	w := &testOutput{w: tb.Output()}
	tb.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", who)
}

type testOutput struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *testOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(b)
}

func (o *testOutput) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = io.Discard
}
