package programs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// soakTime is how long the transfers of TestSoak run.
const soakTime = time.Minute

// A transfer sends one piece after each pause, so that some bytes are always in flight.
const (
	soakPiece = 8 << 10
	soakPause = 10 * time.Millisecond
)

// soakAlive bounds the silence on a connection that still works.
const soakAlive = 30 * time.Second

// TestSoak proves that one connection in each direction between tailscaled and our node, with
// echoed data, survives a minute of restarts of server and relay and of direct paths that open and
// close, and loses nothing.
func TestSoak(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)

	var wg sync.WaitGroup
	defer wg.Wait()
	transfers := []*transfer{newTransfer(t, alpha, beta, 1), newTransfer(t, beta, alpha, 2)}
	end := time.Now().Add(soakTime)
	for _, tr := range transfers {
		wg.Go(func() { tr.send(end) })
		wg.Go(tr.receive)
	}
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"the server restarts", func() { m.server.stop(t); m.server.start(t) }},
		{"the relay restarts", func() { relay.restart(t, func() {}) }},
		{"direct paths open", func() { m.allowDirect() }},
		{"server and relay restart", func() {
			m.server.stop(t)
			relay.restart(t, func() {})
			m.server.start(t)
		}},
		{"direct paths close", func() { m.blockDirect() }},
	} {
		time.Sleep(soakTime / 6)
		t.Log(step.what)
		step.do()
	}
	wg.Wait()
	for _, tr := range transfers {
		t.Logf("%s: %d bytes there and back, longest silence %v", tr.name, tr.received, tr.silence.Round(time.Millisecond))
		if tr.err != nil || tr.received != tr.sent || tr.sent == 0 {
			t.Errorf("%s: sent %d bytes, %d came back: %v", tr.name, tr.sent, tr.received, tr.err)
		}
	}
}

// transfer sends bytes through a node's proxy to another node's echo service and receives them
// back.
type transfer struct {
	name     string
	conn     net.Conn
	seed     uint64
	sent     int // set by send
	received int // set by receive, as are silence and err
	silence  time.Duration
	err      error
}

func newTransfer(t *testing.T, from, to node, seed uint64) *transfer {
	t.Helper()
	d, err := proxy.SOCKS5("tcp", "proxy", nil, proxyDialer{t, from})
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial("tcp", netip.AddrPortFrom(to.address(), echoPort).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &transfer{name: from.machine().name + " to " + to.machine().name, conn: c, seed: seed}
}

// proxyDialer connects to the proxy of a node, whatever the address.
type proxyDialer struct {
	t *testing.T
	n node
}

func (d proxyDialer) Dial(string, string) (net.Conn, error) { return d.n.dialer()(d.t.Context()) }

// content returns a generator of the transfer's pieces. The next call overwrites the last piece.
func (tr *transfer) content() func() []byte {
	source := rand.NewChaCha8([32]byte{byte(tr.seed)})
	piece := make([]byte, soakPiece)
	return func() []byte {
		source.Read(piece)
		return piece
	}
}

// send sends until the time end and then closes its side of the connection.
func (tr *transfer) send(end time.Time) {
	next := tr.content()
	for time.Now().Before(end) {
		n, err := tr.conn.Write(next())
		tr.sent += n
		if err != nil {
			return // receive reports the error
		}
		time.Sleep(soakPause)
	}
	if c, ok := tr.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// receive compares what comes back with what was sent, until the connection ends.
func (tr *transfer) receive() {
	next := tr.content()
	got := make([]byte, soakPiece)
	for {
		asked := time.Now()
		tr.conn.SetReadDeadline(asked.Add(soakAlive))
		n, err := io.ReadFull(tr.conn, got)
		tr.silence = max(tr.silence, time.Since(asked))
		want := next()
		if !bytes.Equal(got[:n], want[:n]) {
			tr.err = fmt.Errorf("other bytes came back after %d", tr.received)
			return
		}
		tr.received += n
		if err != nil {
			if err != io.EOF {
				tr.err = fmt.Errorf("receiving: %w", err)
			}
			return
		}
	}
}
