package interop

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tstest"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// theirRelay is their server behind its handlers, put together as cmd/derper does.
type theirRelay struct {
	*derpserver.Server
	mux *http.ServeMux
}

func (r theirRelay) handler() http.Handler     { return r.mux }
func (r theirRelay) publicKey() key.NodePublic { return ourPublic(r.PublicKey()) }
func (r theirRelay) close()                    { r.Close() }

func (r theirRelay) tlsConfig(base *tls.Config) *tls.Config {
	cert := &base.Certificates[0]
	conf := &tls.Config{
		NextProtos:     []string{"http/1.1"},
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
	}
	r.ModifyTLSConfigToAddMetaCert(conf)
	return conf
}

func (r theirRelay) listener(ln net.Listener, conf *tls.Config) net.Listener {
	if conf == nil {
		return ln
	}
	return tls.NewListener(ln, conf)
}

// startTheirRelay serves their relay until the test ends. Of cfg it takes the keys.
func startTheirRelay(tb testing.TB, cfg relayserver.Config) *relayHost {
	tb.Helper()
	return startFronts(tb, "their relay", newTheirRelay(tb, cfg))
}

func newTheirRelay(tb testing.TB, cfg relayserver.Config) theirRelay {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	s := derpserver.New(theirPrivate(cfg.Key), tstest.WhileTestRunningLogger(tb))
	if !cfg.MeshKey.IsZero() {
		if err := s.SetMeshKey(meshKeyText(cfg.MeshKey)); err != nil {
			tb.Fatal(err)
		}
	}
	if cfg.AdmissionURL != "" {
		s.SetVerifyClientURL(cfg.AdmissionURL)
		s.SetVerifyClientURLFailOpen(!cfg.AdmissionStrict)
	}
	s.UpdateRateLimits(derpserver.RateConfig{
		PerClientRateLimitBytesPerSec: uint64(cfg.ClientRate),
		PerClientRateBurstBytes:       uint64(cfg.ClientBurst),
	})
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.AddWebSocketSupport(s, derpserver.Handler(s)))
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	mux.HandleFunc("/generate_204", derpserver.ServeNoContent)
	return theirRelay{s, mux}
}

// serveTheirSTUN adds the STUN server of cmd/derper, which listens in both families on one socket.
func serveTheirSTUN(tb testing.TB, h *relayHost) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := stunserver.New(ctx)
	if err := s.Listen(":0"); err != nil {
		cancel()
		tb.Fatal(err)
	}
	h.stun = s.LocalAddr().(*net.UDPAddr).Port
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		s.Serve()
	}()
	tb.Cleanup(func() {
		cancel()
		<-donec
	})
}

// makes are the relays of both makes, to run a test on each.
var makes = []struct {
	name  string
	start func(testing.TB, relayserver.Config) *relayHost
	stun  func(testing.TB, *relayHost)
}{
	{"our relay", startOurRelay, serveOurSTUN},
	{"their relay", startTheirRelay, serveTheirSTUN},
}

// eachRelay runs f on a relay of either make.
func eachRelay(t *testing.T, cfg relayserver.Config, f func(t *testing.T, h *relayHost)) {
	for _, m := range makes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f(t, m.start(t, cfg))
		})
	}
}

// newMeshKey makes a mesh key. The product only reads them.
func newMeshKey() relay.MeshKey { return relay.MeshKey(key.NewNodePrivate().Raw()) }

// meshKeyText is a mesh key as files hold it.
func meshKeyText(k relay.MeshKey) string { return hexOf(k[:]) }
