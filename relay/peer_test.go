package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// memRelay is a server in a synctest bubble, reached over plain HTTP at http://relay.example/derp.
type memRelay struct {
	*Server
	t   *testing.T
	net *memNet
}

const memURL = "http://relay.example/derp"

func startMemRelay(t *testing.T, cfg ServerConfig) *memRelay {
	t.Helper()
	n := newMemNet()
	s := newTestServer(t, cfg)
	serveUntilEnd(t, s, n.listen("relay.example:80"), nil)
	return &memRelay{s, t, n}
}

// metric returns the value of a metric of the server, written as Prometheus does:
// name{label="value"}.
func (s *Server) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := s.metrics.registry.Gather()
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

// wantMetric checks a metric.
func (s *Server) wantMetric(tb testing.TB, name string, want float64) {
	tb.Helper()
	if got := s.metric(tb, name); got != want {
		tb.Errorf("%s = %v, want %v", name, got, want)
	}
}

// rawPeer is a client, or a server, that speaks frames by hand.
type rawPeer struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
	key  key.NodePrivate
}

// dial connects a peer that has sent nothing yet.
func (r *memRelay) dial() *rawPeer {
	r.t.Helper()
	conn, err := r.net.DialContext(r.t.Context(), "tcp", "relay.example:80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return newRawPeer(r.t, conn, key.NewNodePrivate())
}

func newRawPeer(t *testing.T, conn net.Conn, k key.NodePrivate) *rawPeer {
	return &rawPeer{t: t, conn: conn, br: bufio.NewReader(conn), key: k}
}

// upgrade sends the request of the vectors, with extra header lines, and checks the answer to the
// byte.
func (p *rawPeer) upgrade(server key.NodePublic, extra string) {
	p.t.Helper()
	request := string(loadVectors(p.t).find(p.t, "http_request_upgrade"))
	p.write([]byte(request[:len(request)-2] + extra + "\r\n"))
	want := (&Server{public: server}).appendSwitching(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(p.br, got); err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("answer to the upgrade: %q, %v, want %q", got, err, want)
	}
	if k, err := parseServerKey(p.wantFrame(frameServerKey)); err != nil || k != server {
		p.t.Fatalf("greeting: %v, %v", k, err)
	}
}

// login sends ClientInfo and waits to be admitted.
func (p *rawPeer) login(server key.NodePublic, info clientInfo) {
	p.t.Helper()
	shared, err := p.key.Shared(server)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(appendClientInfo(nil, p.key.Public(), shared, info))
	got, err := openServerInfo(shared, p.wantFrame(frameServerInfo))
	if err != nil || got != (serverInfo{Version: 2}) {
		p.t.Fatalf("answer to the login: %+v, %v", got, err)
	}
}

// client returns a peer that is logged in as an ordinary client.
func (r *memRelay) client() *rawPeer {
	r.t.Helper()
	return r.clientWithKey(key.NewNodePrivate())
}

func (r *memRelay) clientWithKey(k key.NodePrivate) *rawPeer {
	r.t.Helper()
	p := r.dial()
	p.key = k
	p.upgrade(r.public, "")
	p.login(r.public, clientInfo{Version: 2, CanAckPings: true})
	return p
}

// meshClient returns a peer that is logged in with the mesh key.
func (r *memRelay) meshClient() *rawPeer {
	r.t.Helper()
	p := r.dial()
	p.upgrade(r.public, "")
	p.login(r.public, clientInfo{Version: 2, MeshKey: sealedMeshKey{r.cfg.MeshKey}})
	return p
}

func (p *rawPeer) public() key.NodePublic { return p.key.Public() }

func (p *rawPeer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("writing: %v", err)
	}
}

func (p *rawPeer) send(to key.NodePublic, packet string) {
	p.t.Helper()
	p.write(appendSendPacket(nil, to, []byte(packet)))
}

// next returns the next frame.
func (p *rawPeer) next() (frameType, []byte, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(p.br, head[:]); err != nil {
		return 0, nil, err
	}
	t, n, _ := parseHeader(head[:])
	payload := make([]byte, n)
	_, err := io.ReadFull(p.br, payload)
	return t, payload, err
}

// wantFrame returns the payload of the next frame, which must be of that type.
func (p *rawPeer) wantFrame(want frameType) []byte {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(time.Minute - time.Second)) // sooner than a KeepAlive
	defer p.conn.SetReadDeadline(time.Time{})
	t, payload, err := p.next()
	if err != nil || t != want {
		p.t.Fatalf("got frame %#02x %x, %v, want %#02x", byte(t), payload, err, byte(want))
	}
	return payload
}

// wantPacket checks that the next frame is a packet.
func (p *rawPeer) wantPacket(from key.NodePublic, packet string) {
	p.t.Helper()
	got := p.wantFrame(frameRecvPacket)
	if key.NodePublic(got[:key.Size]) != from || string(got[key.Size:]) != packet {
		p.t.Fatalf("got packet %q from %x, want %q from %v", got[key.Size:], got[:4], packet, from)
	}
}

// wantGone checks that the next frame tells that a peer is gone.
func (p *rawPeer) wantGone(peer key.NodePublic, reason goneReason) {
	p.t.Helper()
	got, why, ok := parsePeerGone(p.wantFrame(framePeerGone))
	if !ok || got != peer || why != reason {
		p.t.Fatalf("got PeerGone of %v for %d, want %v for %d", got, why, peer, reason)
	}
}

// wantPresent returns the presence in the next frame.
func (p *rawPeer) wantPresent() presence {
	p.t.Helper()
	payload := p.wantFrame(framePeerPresent)
	present, ok := parsePeerPresent(payload)
	if !ok || len(payload) != 51 {
		p.t.Fatalf("PeerPresent %x", payload)
	}
	return present
}

// wantIdle checks that nothing comes, and that the connection stands, once everybody waits.
func (p *rawPeer) wantIdle() {
	p.t.Helper()
	synctest.Wait()
	p.conn.SetReadDeadline(time.Now())
	defer p.conn.SetReadDeadline(time.Time{})
	if b, err := p.br.Peek(1); !isTimeout(err) {
		t, payload, _ := p.next()
		p.t.Fatalf("got %x and %v, frame %#02x %x, want nothing", b, err, byte(t), payload)
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// wantClosed checks that the other side closes the connection without another frame.
func (p *rawPeer) wantClosed() {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	t, payload, err := p.next()
	if err == nil || isTimeout(err) {
		p.t.Fatalf("got frame %#02x %x, %v, want the end", byte(t), payload, err)
	}
}

// ping checks that the other side is there and has handled all that came before.
func (p *rawPeer) ping() {
	p.t.Helper()
	data := pingData([]byte("ginnel!!"))
	p.write(appendPing(nil, data))
	if got := p.wantFrame(framePong); string(got) != "ginnel!!" {
		p.t.Fatalf("Pong %q", got)
	}
}

// get does an HTTP request on a connection of its own.
func (r *memRelay) get(method, path string, header http.Header) *http.Response {
	r.t.Helper()
	conn, err := r.net.DialContext(r.t.Context(), "tcp", "relay.example:80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://relay.example"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if err := req.Write(conn); err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// rawServer accepts connections of clients and speaks to them by hand.
type rawServer struct {
	t    *testing.T
	net  *memNet
	ln   *memListener
	key  key.NodePrivate
	conf *tls.Config // nil for plain HTTP
}

// startRawServer serves http://relay.example.
func startRawServer(t *testing.T) *rawServer {
	n := newMemNet()
	s := &rawServer{t: t, net: n, ln: n.listen("relay.example:80"), key: key.NewNodePrivate()}
	t.Cleanup(func() { s.ln.Close() })
	return s
}

// startRawTLS serves a host of n with TLS.
func startRawTLS(t *testing.T, n *memNet, host string) *rawServer {
	s := &rawServer{t: t, net: n, ln: n.listen(host + ":443"), key: key.NewNodePrivate()}
	s.conf = &tls.Config{Certificates: []tls.Certificate{newTestCA(t).issue(time.Hour, host)}}
	t.Cleanup(func() { s.ln.Close() })
	return s
}

// accept waits for a client and returns it after the request, which is returned too.
func (s *rawServer) accept() (*rawPeer, *http.Request) {
	s.t.Helper()
	conn, err := s.ln.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if s.conf != nil {
		conn = tls.Server(conn, s.conf)
	}
	p := newRawPeer(s.t, conn, s.key)
	req, err := http.ReadRequest(p.br)
	if err != nil {
		s.t.Fatal(err)
	}
	return p, req
}

// acceptLogin waits for a client, upgrades it and reads its login, but does not admit it.
func (s *rawServer) acceptLogin() (*rawPeer, key.NodePublic, clientInfo) {
	s.t.Helper()
	p, _ := s.accept()
	p.write(appendServerKey((&Server{public: s.key.Public()}).appendSwitching(nil), s.key.Public()))
	client, _, info, err := openClientInfo(s.key, p.wantFrame(frameClientInfo))
	if err != nil {
		s.t.Fatal(err)
	}
	return p, client, info
}

// admit tells a client that it is logged in.
func (p *rawPeer) admit(client key.NodePublic, info serverInfo) {
	p.t.Helper()
	shared, err := p.key.Shared(client)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(appendServerInfo(nil, shared, info))
}

// clientOf dials a rawServer and returns both ends of a connection that is logged in.
func (s *rawServer) clientOf(cfg ClientConfig) (*Client, *rawPeer) {
	s.t.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	cfg.DialContext = s.net.DialContext
	clientc := make(chan *Client, 1)
	go func() {
		c, err := Dial(context.Background(), memURL, cfg)
		if err != nil {
			s.t.Error(err)
		}
		clientc <- c
	}()
	p, client, _ := s.acceptLogin()
	p.admit(client, serverInfo{Version: 2})
	c := <-clientc
	if c == nil {
		s.t.FailNow()
	}
	s.t.Cleanup(func() { c.Close() })
	wantKind(s.t, c, messageLoggedIn)
	return c, p
}
