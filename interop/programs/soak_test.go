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

// soakTime is how long the transfers of TestSoak go on.
const soakTime = time.Minute

// A transfer sends a piece in every pause, which is enough for something to be under way at any
// time.
const (
	soakPiece = 8 << 10
	soakPause = 10 * time.Millisecond
)

// soakAlive bounds the silence on a connection that goes on.
const soakAlive = 30 * time.Second

// TestSoak proves that one connection in each direction between tailscaled and our node, both
// carrying bytes there and back, outlives whatever happens to server and relay, and to the direct
// path, for a minute, and loses nothing.
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
		{"direct ways open", func() { m.unlock(true) }},
		{"server and relay restart", func() {
			m.server.stop(t)
			relay.restart(t, func() {})
			m.server.start(t)
		}},
		{"direct ways close", func() { m.unlock(false) }},
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

// transfer is bytes on their way through a node's proxy to another node's echo, and back.
type transfer struct {
	name     string
	conn     net.Conn
	seed     uint64
	sent     int // set by send
	received int // and these by receive
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

// proxyDialer connects to the proxy of a node, whatever it is asked for.
type proxyDialer struct {
	t *testing.T
	n node
}

func (d proxyDialer) Dial(string, string) (net.Conn, error) { return d.n.dialer()(d.t.Context()) }

// content is what a transfer carries: pieces, each of them another.
func (tr *transfer) content() func() []byte {
	source := rand.NewChaCha8([32]byte{byte(tr.seed)})
	piece := make([]byte, soakPiece)
	return func() []byte {
		source.Read(piece)
		return piece
	}
}

// send sends until it is time, and then says that this was all.
func (tr *transfer) send(end time.Time) {
	next := tr.content()
	for time.Now().Before(end) {
		n, err := tr.conn.Write(next())
		tr.sent += n
		if err != nil {
			return // which receive will notice, too
		}
		time.Sleep(soakPause)
	}
	if c, ok := tr.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// receive compares what comes back, to its end.
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
