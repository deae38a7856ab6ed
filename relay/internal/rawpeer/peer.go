// Package rawpeer speaks DERP frame by frame in tests: as a client of a relay ([Peer]), and as a
// relay that clients connect to ([Server]). It uses neither the client nor the server of the
// project.
package rawpeer

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// Peer is one end of a connection, which writes and reads frames one by one. It is a client, or the
// end of a [Server].
type Peer struct {
	t      *testing.T
	Conn   net.Conn
	Reader *bufio.Reader
	Key    key.NodePrivate
}

// New returns a peer on conn.
func New(t *testing.T, conn net.Conn, k key.NodePrivate) *Peer {
	return &Peer{t: t, Conn: conn, Reader: bufio.NewReader(conn), Key: k}
}

// Upgrade sends the upgrade request of the vectors with extra header lines. It checks every byte of
// the answer.
func (p *Peer) Upgrade(server key.NodePublic, extra string) {
	p.t.Helper()
	request := string(relaytest.LoadVectors(p.t).Find(p.t, "http_request_upgrade"))
	p.Write([]byte(request[:len(request)-2] + extra + "\r\n"))
	want := derp.AppendSwitching(nil, server)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(p.Reader, got); err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("answer to the upgrade: %q, %v, want %q", got, err, want)
	}
	if k, err := derp.ParseServerKey(p.WantFrame(derp.FrameServerKey)); err != nil || k != server {
		p.t.Fatalf("greeting: %v, %v", k, err)
	}
}

// Login sends ClientInfo and waits until the relay has admitted the peer.
func (p *Peer) Login(server key.NodePublic, info derp.ClientInfo) {
	p.t.Helper()
	shared, err := p.Key.Shared(server)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Write(derp.AppendClientInfo(nil, p.Key.Public(), shared, info))
	got, err := derp.OpenServerInfo(shared, p.WantFrame(derp.FrameServerInfo))
	if err != nil || got != (derp.ServerInfo{Version: 2}) {
		p.t.Fatalf("answer to the login: %+v, %v", got, err)
	}
}

// Public returns the peer's public key.
func (p *Peer) Public() key.NodePublic { return p.Key.Public() }

// Write writes frames.
func (p *Peer) Write(b []byte) {
	p.t.Helper()
	if _, err := p.Conn.Write(b); err != nil {
		p.t.Fatalf("writing: %v", err)
	}
}

// Send sends a packet.
func (p *Peer) Send(to key.NodePublic, packet string) {
	p.t.Helper()
	p.Write(derp.AppendSendPacket(nil, to, []byte(packet)))
}

// Next returns the next frame.
func (p *Peer) Next() (derp.FrameType, []byte, error) {
	var head [derp.HeaderSize]byte
	if _, err := io.ReadFull(p.Reader, head[:]); err != nil {
		return 0, nil, err
	}
	t, n, _ := derp.ParseHeader(head[:])
	payload := make([]byte, n)
	_, err := io.ReadFull(p.Reader, payload)
	return t, payload, err
}

// WantFrame returns the payload of the next frame, which must be of type want.
func (p *Peer) WantFrame(want derp.FrameType) []byte {
	p.t.Helper()
	p.Conn.SetReadDeadline(time.Now().Add(time.Minute - time.Second)) // sooner than a KeepAlive
	defer p.Conn.SetReadDeadline(time.Time{})
	t, payload, err := p.Next()
	if err != nil || t != want {
		p.t.Fatalf("got frame %#02x %x, %v, want %#02x", byte(t), payload, err, byte(want))
	}
	return payload
}

// WantPacket checks that the next frame is that packet.
func (p *Peer) WantPacket(from key.NodePublic, packet string) {
	p.t.Helper()
	got := p.WantFrame(derp.FrameRecvPacket)
	if key.NodePublic(got[:key.Size]) != from || string(got[key.Size:]) != packet {
		p.t.Fatalf("got packet %q from %x, want %q from %v", got[key.Size:], got[:4], packet, from)
	}
}

// WantGone checks that the next frame says that peer is gone.
func (p *Peer) WantGone(peer key.NodePublic, reason derp.GoneReason) {
	p.t.Helper()
	got, why, ok := derp.ParsePeerGone(p.WantFrame(derp.FramePeerGone))
	if !ok || got != peer || why != reason {
		p.t.Fatalf("got PeerGone of %v for %d, want %v for %d", got, why, peer, reason)
	}
}

// WantPresent returns the content of the next frame, which must be a PeerPresent.
func (p *Peer) WantPresent() derp.Presence {
	p.t.Helper()
	payload := p.WantFrame(derp.FramePeerPresent)
	present, ok := derp.ParsePeerPresent(payload)
	if !ok || len(payload) != 51 {
		p.t.Fatalf("PeerPresent %x", payload)
	}
	return present
}

// WantIdle checks that no frame comes and the connection is not closed, once all goroutines of the
// bubble wait.
func (p *Peer) WantIdle() {
	p.t.Helper()
	synctest.Wait()
	p.Conn.SetReadDeadline(time.Now())
	defer p.Conn.SetReadDeadline(time.Time{})
	if b, err := p.Reader.Peek(1); !relaytest.IsTimeout(err) {
		t, payload, _ := p.Next()
		p.t.Fatalf("got %x and %v, frame %#02x %x, want nothing", b, err, byte(t), payload)
	}
}

// WantClosed checks that the other side closes the connection without another frame.
func (p *Peer) WantClosed() {
	p.t.Helper()
	p.Conn.SetReadDeadline(time.Now().Add(time.Minute))
	t, payload, err := p.Next()
	if err == nil || relaytest.IsTimeout(err) {
		p.t.Fatalf("got frame %#02x %x, %v, want the end", byte(t), payload, err)
	}
}

// Ping checks that the other end answers, and so has handled all earlier frames.
func (p *Peer) Ping() {
	p.t.Helper()
	data := derp.PingData([]byte("ginnel!!"))
	p.Write(derp.AppendPing(nil, data))
	if got := p.WantFrame(derp.FramePong); string(got) != "ginnel!!" {
		p.t.Fatalf("Pong %q", got)
	}
}
