package rawpeer

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// URL is the address of a [Relay].
const URL = "http://relay.example/derp"

// testServer is what this package needs of a relay server.
type testServer interface {
	Serve(ln net.Listener, conf *tls.Config) error
	PublicKey() key.NodePublic
	Close() error
}

// Relay is a relay server in a synctest bubble, reached over plain HTTP at [URL].
type Relay struct {
	T         *testing.T
	Net       *relaytest.Net
	ServerKey key.NodePublic
	MeshKey   derp.MeshKey
}

// StartRelay serves s on a network of its own. meshKey is the mesh key of s.
func StartRelay(t *testing.T, s testServer, meshKey derp.MeshKey) *Relay {
	t.Helper()
	r := &Relay{T: t, Net: relaytest.NewNet(), ServerKey: s.PublicKey(), MeshKey: meshKey}
	Serve(t, s, r.Net.Listen("relay.example:80"), nil)
	return r
}

// Serve serves ln until the end of the test. It checks that Serve of s returns because s was
// closed.
func Serve(tb testing.TB, s testServer, ln net.Listener, conf *tls.Config) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ln, conf); !errors.Is(err, net.ErrClosed) {
			tb.Errorf("Serve = %v, want net.ErrClosed", err)
		}
	})
	tb.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
}

// metricSource is a server that has metrics.
type metricSource interface{ Collector() prometheus.Collector }

// Metric returns the value of a metric, with its name as Prometheus writes it: name{label="value"}.
func Metric(tb testing.TB, s metricSource, name string) float64 {
	tb.Helper()
	families, err := s.Collector().(prometheus.Gatherer).Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			full := f.GetName()
			for i, l := range m.GetLabel() {
				sep := ","
				if i == 0 {
					sep = "{"
				}
				full += fmt.Sprintf("%s%s=%q", sep, l.GetName(), l.GetValue())
			}
			if len(m.GetLabel()) > 0 {
				full += "}"
			}
			if full == name {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// WantMetric checks a metric.
func WantMetric(tb testing.TB, s metricSource, name string, want float64) {
	tb.Helper()
	if got := Metric(tb, s, name); got != want {
		tb.Errorf("%s = %v, want %v", name, got, want)
	}
}

// Dial connects a peer. It has sent nothing yet.
func (r *Relay) Dial() *Peer {
	r.T.Helper()
	conn, err := r.Net.DialContext(r.T.Context(), "tcp", "relay.example:80")
	if err != nil {
		r.T.Fatal(err)
	}
	r.T.Cleanup(func() { conn.Close() })
	return New(r.T, conn, key.NewNodePrivate())
}

// Client returns a peer that is logged in as an ordinary client.
func (r *Relay) Client() *Peer {
	r.T.Helper()
	return r.ClientWithKey(key.NewNodePrivate())
}

// ClientWithKey is Client with the peer's key.
func (r *Relay) ClientWithKey(k key.NodePrivate) *Peer {
	r.T.Helper()
	p := r.Dial()
	p.Key = k
	p.Upgrade(r.ServerKey, "")
	p.Login(r.ServerKey, derp.ClientInfo{Version: 2, CanAckPings: true})
	return p
}

// MeshClient returns a peer that is logged in with the mesh key.
func (r *Relay) MeshClient() *Peer {
	r.T.Helper()
	p := r.Dial()
	p.Upgrade(r.ServerKey, "")
	p.Login(r.ServerKey, derp.ClientInfo{Version: 2, MeshKey: derp.SealedMeshKey{MeshKey: r.MeshKey}})
	return p
}

// Get sends an HTTP request on a connection of its own.
func (r *Relay) Get(method, path string, header http.Header) *http.Response {
	r.T.Helper()
	conn, err := r.Net.DialContext(r.T.Context(), "tcp", "relay.example:80")
	if err != nil {
		r.T.Fatal(err)
	}
	r.T.Cleanup(func() { conn.Close() })
	req, err := http.NewRequestWithContext(r.T.Context(), method, "http://relay.example"+path, nil)
	if err != nil {
		r.T.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if err := req.Write(conn); err != nil {
		r.T.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		r.T.Fatal(err)
	}
	return resp
}
