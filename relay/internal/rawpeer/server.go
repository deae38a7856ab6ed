package rawpeer

import (
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// Server accepts clients and speaks to each through a [Peer].
type Server struct {
	T        *testing.T
	Net      *relaytest.Net
	Listener *relaytest.Listener
	Key      key.NodePrivate
	conf     *tls.Config // nil for plain HTTP
}

// StartServer serves http://relay.example.
func StartServer(t *testing.T) *Server {
	n := relaytest.NewNet()
	s := &Server{T: t, Net: n, Listener: n.Listen("relay.example:80"), Key: key.NewNodePrivate()}
	t.Cleanup(func() { s.Listener.Close() })
	return s
}

// StartTLS serves a host of n with TLS.
func StartTLS(t *testing.T, n *relaytest.Net, host string) *Server {
	s := &Server{T: t, Net: n, Listener: n.Listen(host + ":443"), Key: key.NewNodePrivate()}
	s.conf = &tls.Config{Certificates: []tls.Certificate{relaytest.NewCA(t).Issue(time.Hour, host)}}
	t.Cleanup(func() { s.Listener.Close() })
	return s
}

// Accept waits for a client. It returns the client's connection and its request.
func (s *Server) Accept() (*Peer, *http.Request) {
	s.T.Helper()
	conn, err := s.Listener.Accept()
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { conn.Close() })
	if s.conf != nil {
		conn = tls.Server(conn, s.conf)
	}
	p := New(s.T, conn, s.Key)
	req, err := http.ReadRequest(p.Reader)
	if err != nil {
		s.T.Fatal(err)
	}
	return p, req
}

// AcceptLogin waits for a client, upgrades the connection and reads the login. It does not admit
// the client.
func (s *Server) AcceptLogin() (*Peer, key.NodePublic, derp.ClientInfo) {
	s.T.Helper()
	p, _ := s.Accept()
	p.Write(derp.AppendServerKey(derp.AppendSwitching(nil, s.Key.Public()), s.Key.Public()))
	client, _, info, err := derp.OpenClientInfo(s.Key, p.WantFrame(derp.FrameClientInfo))
	if err != nil {
		s.T.Fatal(err)
	}
	return p, client, info
}

// Admit answers the login of a client.
func (p *Peer) Admit(client key.NodePublic, info derp.ServerInfo) {
	p.t.Helper()
	shared, err := p.Key.Shared(client)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Write(derp.AppendServerInfo(nil, shared, info))
}
