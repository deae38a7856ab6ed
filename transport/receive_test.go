package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/simnet"
	"ginnel/key"
)

// WireGuard is given what comes from Open on, once, until Close; after that everything says so.
func TestLifetime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		if err := b.c.Open(b.receive); !errors.Is(err, errOpen) {
			t.Errorf("second Open: %v", err)
		}
		if _, _, lost := a.stream(b, time.Second); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
		b.c.Close()
		b.c.Close()
		before := len(b.received)
		a.send(b, "nobody listens")
		time.Sleep(time.Second)
		if n := len(b.received); n != before {
			t.Errorf("%d messages came after Close", n-before)
		}
		if err := b.c.Open(b.receive); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		b.c.SetPeers(nil)
		b.c.NetworkChanged()
		if s := b.c.Status(); len(s.Peers) != 0 {
			t.Errorf("status after Close: %+v", s)
		}
	})
}

// A receiver yields after each read, and a relay after each batch.
func TestYield(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var yields atomic.Int64
		counting := func(cfg *Config) { cfg.Yield = func() { yields.Add(1) } }
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None), counting)
		w.introduce(a, b)
		time.Sleep(time.Second)
		if yields.Load() == 0 {
			t.Error("no yield after disco messages were read")
		}
		before := yields.Load()
		b.c.HandleRelayed(1, a.key, [][]byte{packet("one"), packet("two")})
		if got := yields.Load() - before; got != 1 {
			t.Errorf("%d yields for a relayed batch, want 1", got)
		}
	})
}

func TestParseEndpoint(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		bind := a.c
		ep, err := bind.ParseEndpoint(hex.EncodeToString(b.key[:]))
		if err != nil {
			t.Fatal(err)
		}
		again, _ := bind.ParseEndpoint(ep.DstToString())
		if again != ep || !ep.DstIP().IsPrivate() || len(ep.DstToBytes()) != key.Size {
			t.Errorf("endpoint %v, again %v", ep, again)
		}
		plain, err := bind.ParseEndpoint("[::ffff:192.0.2.1]:51820")
		if err != nil || plain.DstToString() != "192.0.2.1:51820" {
			t.Errorf("address endpoint %v, %v", plain, err)
		}
		for _, bad := range []string{"", "name:51820", "192.0.2.1", hex.EncodeToString(make([]byte, 32)), "zz" +
			hex.EncodeToString(b.key[1:])} {
			if _, err := bind.ParseEndpoint(bad); err == nil {
				t.Errorf("ParseEndpoint(%q) succeeded", bad)
			}
		}
	})
}

// flakyConn is a UDP socket whose first reads fail. After them comes one datagram, and then
// nothing.
type flakyConn struct {
	fails  int // reads that are still to fail; owned by the reader
	once   sync.Once
	closec chan struct{}
}

var errFlaky = errors.New("flaky")

func (c *flakyConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	c.fails--
	switch {
	case c.fails >= 0:
		return 0, netip.AddrPort{}, errFlaky
	case c.fails == -1:
		return copy(b, packet("at last")), netip.MustParseAddrPort("192.0.2.1:1"), nil
	}
	<-c.closec
	return 0, netip.AddrPort{}, net.ErrClosed
}

func (c *flakyConn) WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error) { return 0, errFlaky }
func (c *flakyConn) LocalAddr() net.Addr                                    { return &net.UDPAddr{Port: 1} }
func (c *flakyConn) Close() error {
	c.once.Do(
		func() { close(c.closec) })
	return nil
}

// newFlaky makes a Conn whose one socket is a flakyConn, and returns the text of what comes.
func newFlaky(t *testing.T, fails int, log *bytes.Buffer) (*Conn, <-chan string) {
	t.Helper()
	c, err := New(Config{
		Listen: func(network string, _ netip.AddrPort) (PacketConn, error) {
			if network != "udp4" {
				return nil, errors.New("IPv4 only")
			}
			return &flakyConn{fails: fails, closec: make(chan struct{})}, nil
		},
		LocalAddrs: func() ([]netip.Addr, error) { return nil, nil },
		Log:        slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	textc := make(chan string, 1)
	if err := c.Open(func(messages [][]byte, _ conn.Endpoint) { textc <- string(messages[0][dataHeader:]) }); err != nil {
		t.Fatal(err)
	}
	return c, textc
}

// A socket that fails for a while is no reason to be deaf from then on. It is tried again ever more
// slowly, and said once.
func TestReceiveErrorsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		const slow = 50
		begun := time.Now()
		_, textc := newFlaky(t, quickReadErrors+slow, &log)
		if text := <-textc; text != "at last" {
			t.Errorf("got %q", text)
		}
		if took := time.Since(begun); took < (slow-10)*maxReadDelay || took > (slow+1)*maxReadDelay {
			t.Errorf("%d further attempts within %v, want about one a second", slow, took)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), errFlaky.Error()) {
			t.Errorf("logged %q, want one line", log.String())
		}
	})
}

func TestCloseEndsThePauseAfterReceiveErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, _ := newFlaky(t, 1<<30, &log)
		time.Sleep(10*time.Second + time.Millisecond)
		begun := time.Now()
		c.Close()
		if took := time.Since(begun); took > 0 {
			t.Errorf("closed after %v, want at once", took)
		}
	})
}

// Without a relay, the error of the direct path is the reason why nothing could be sent.
func TestSendErrorWithoutRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, _ := newFlaky(t, 0, &log)
		peer := key.NewNodePrivate().Public()
		c.SetPeers([]Peer{{Key: peer}})
		ep := c.endpointOf(peer)
		if err := c.Send(0, [][]byte{packet("x")}, ep); !errors.Is(err, errNoPath) {
			t.Errorf("without an address: %v, want %v", err, errNoPath)
		}
		ep.route.Store(&route{direct: netip.MustParseAddrPort("192.0.2.1:1")})
		if err := c.Send(0, [][]byte{packet("x")}, ep); !errors.Is(err, errFlaky) {
			t.Errorf("got %v, want what the socket said", err)
		}
	})
}
