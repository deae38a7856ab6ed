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

// theirRelay is their server with its HTTP handlers, assembled as cmd/derper does it.
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

// startTheirRelay serves their relay until the test ends. It takes the keys, the admission
// controller and the rate limit from cfg.
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

// serveTheirSTUN adds the STUN server of cmd/derper, which serves both address families on one
// socket.
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

// relayKinds are our relay and theirs.
var relayKinds = []struct {
	name  string
	start func(testing.TB, relayserver.Config) *relayHost
	stun  func(testing.TB, *relayHost)
}{
	{"our relay", startOurRelay, serveOurSTUN},
	{"their relay", startTheirRelay, serveTheirSTUN},
}

// eachRelay runs f on our relay and on theirs.
func eachRelay(t *testing.T, cfg relayserver.Config, f func(t *testing.T, h *relayHost)) {
	for _, m := range relayKinds {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f(t, m.start(t, cfg))
		})
	}
}

// newMeshKey makes a mesh key. The product has no code for that.
func newMeshKey() relay.MeshKey { return relay.MeshKey(key.NewNodePrivate().Raw()) }

// meshKeyText returns a mesh key as its file contains it.
func meshKeyText(k relay.MeshKey) string { return hexOf(k[:]) }
