package server

import (
	"testing"

	"ginnel/key"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// newTestServer returns a server with a key and a log, closed at the end of the test.
func newTestServer(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	if _, bench := tb.(*testing.B); !bench && cfg.Log == nil {
		cfg.Log = relaytest.Log(tb)
	}
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// memRelay is a server in a synctest bubble.
type memRelay struct {
	*Server
	*rawpeer.Relay
}

func startMemRelay(t *testing.T, cfg Config) *memRelay {
	t.Helper()
	s := newTestServer(t, cfg)
	return &memRelay{s, rawpeer.StartRelay(t, s, cfg.MeshKey)}
}

// wantMetric checks a metric.
func (r *memRelay) wantMetric(t *testing.T, name string, want float64) {
	t.Helper()
	rawpeer.WantMetric(t, r.Server, name, want)
}
