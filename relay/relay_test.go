package relay_test

import (
	"context"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
	"ginnel/relay/server"
)

// TestMain runs the tests, or the clients of BenchmarkIdleMemory.
func TestMain(m *testing.M) {
	if region := os.Getenv(idleClientsEnv); region != "" {
		os.Exit(runIdleClients(region))
	}
	os.Exit(relaytest.Run(m))
}

// relayNode is a server on loopback, and what clients need to find it.
type relayNode struct {
	*server.Server
	addr   string
	region *relay.Region
}

// startServer serves TLS on loopback with a self-signed certificate until the end of the test.
func startServer(tb testing.TB, cfg server.Config) *relayNode {
	tb.Helper()
	s := newServer(tb, cfg)
	base, pin, err := server.SelfSignedTLS(tb.TempDir(), "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := server.Listen(tb.Context(), "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	rawpeer.Serve(tb, s, ln, s.TLSConfig(base))
	port := ln.Addr().(*net.TCPAddr).Port
	return &relayNode{Server: s, addr: ln.Addr().String(), region: &relay.Region{RegionID: 1, RegionCode: "test",
		Nodes: []*relay.Node{
			{Name: "1a", RegionID: 1, HostName: "127.0.0.1", DERPPort: port, CertName: pin},
		}}}
}

func TestEndToEnd(t *testing.T) {
	srv := startServer(t, server.Config{})
	ka, kb := key.NewNodePrivate(), key.NewNodePrivate()
	a := relay.DialTest(t, srv.region, relay.ClientConfig{Key: ka})
	b := relay.DialTest(t, srv.region, relay.ClientConfig{Key: kb})
	relay.WantKind(t, a, relay.MessageLoggedIn)
	relay.WantKind(t, b, relay.MessageLoggedIn)
	if err := a.Send(kb.Public(), [][]byte{[]byte("hello")}); err != nil {
		t.Fatal(err)
	}
	m := relay.WantKind(t, b, relay.MessagePacket)
	if string(m.Data) != "hello" || m.Peer != ka.Public() {
		t.Fatalf("got %q from %v, want hello from %v", m.Data, m.Peer, ka.Public())
	}
	if got, want := a.Transport(), relay.TransportNative; got != want {
		t.Errorf("transport %v, want %v", got, want)
	}
	if a.ServerKey() != srv.PublicKey() {
		t.Errorf("server key %v, want %v", a.ServerKey(), srv.PublicKey())
	}
}

func TestEndToEndInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := relaytest.NewNet()
		s := newServer(t, server.Config{})
		base, pin, err := server.SelfSignedTLS(t.TempDir(), "relay.example")
		if err != nil {
			t.Fatal(err)
		}
		rawpeer.Serve(t, s, n.Listen("relay.example:443"), s.TLSConfig(base))
		region := &relay.Region{RegionID: 1, Nodes: []*relay.Node{{Name: "1a", RegionID: 1, HostName: "relay.example",
			CertName: pin}}}
		ka, kb := key.NewNodePrivate(), key.NewNodePrivate()
		a := relay.DialTest(t, region, relay.ClientConfig{Key: ka, DialContext: n.DialContext})
		b := relay.DialTest(t, region, relay.ClientConfig{Key: kb, DialContext: n.DialContext})
		relay.WantKind(t, b, relay.MessageLoggedIn)
		a.Send(kb.Public(), [][]byte{[]byte("hello")})
		if m := relay.WantKind(t, b, relay.MessagePacket); string(m.Data) != "hello" {
			t.Errorf("got %q", m.Data)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go relay.DrainMessages(a)
		if _, err := a.Ping(ctx); err != nil {
			t.Error(err)
		}
		b.Close()
		a.Close()
		s.Close()
	})
}

// newServer returns a server with a key and a log, closed at the end of the test.
func newServer(tb testing.TB, cfg server.Config) *server.Server {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	if _, bench := tb.(*testing.B); !bench && cfg.Log == nil {
		cfg.Log = relaytest.Log(tb)
	}
	s, err := server.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}
