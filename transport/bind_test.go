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
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/key"
	"ginnel/internal/simnet"
)

// WireGuard may close and reopen its bind; after the Conn's Close everything says so.
func TestBindLifetime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		bind := b.c.Bind()
		if _, _, err := bind.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
			t.Errorf("second Open: %v", err)
		}
		bind.Close()
		bind.Close()
		b.wg.Wait()
		a.send(b, "nobody listens")
		time.Sleep(time.Second)
		fns, _, err := bind.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		for _, fn := range fns {
			b.wg.Go(func() { b.receive(fn) })
		}
		if _, _, lost := a.stream(b, time.Second); lost > 0 {
			t.Errorf("%d packets lost after reopening", lost)
		}
		b.c.Close()
		b.c.Close()
		b.wg.Wait()
		bind.Close()
		if _, _, err := bind.Open(0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		b.c.SetPeers(nil)
		b.c.NetworkChanged()
		if s := b.c.Status(); len(s.Peers) != 0 {
			t.Errorf("status after Close: %+v", s)
		}
	})
}

func TestParseEndpoint(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		bind := a.c.Bind()
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
		for _, bad := range []string{"", "name:51820", "192.0.2.1", hex.EncodeToString(make([]byte, 32)), "zz" + hex.EncodeToString(b.key[1:])} {
			if _, err := bind.ParseEndpoint(bad); err == nil {
				t.Errorf("ParseEndpoint(%q) succeeded", bad)
			}
		}
	})
}

// flakyConn is a UDP socket whose first reads fail. After them comes one datagram, and then nothing.
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
func (c *flakyConn) SetReadDeadline(time.Time) error                        { return nil }
func (c *flakyConn) LocalAddr() net.Addr                                    { return &net.UDPAddr{Port: 1} }
func (c *flakyConn) Close() error                                           { c.once.Do(func() { close(c.closec) }); return nil }

// newFlaky makes a Conn whose one socket is a flakyConn, and returns its receive function.
func newFlaky(t *testing.T, fails int, log *bytes.Buffer) (*Conn, conn.ReceiveFunc) {
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
	fns, _, err := c.Bind().Open(0)
	if err != nil {
		t.Fatal(err)
	}
	return c, fns[0]
}

func receiveOne(fn conn.ReceiveFunc) (string, error) {
	bufs, sizes, eps := [][]byte{make([]byte, 100)}, make([]int, 1), make([]conn.Endpoint, 1)
	_, err := fn(bufs, sizes, eps)
	return string(bufs[0][min(dataHeader, sizes[0]):sizes[0]]), err
}

// A socket that fails for a while is no reason to be deaf from then on: WireGuard ends a receive routine that returns
// an error. It is tried again ever more slowly, and said once.
func TestReceiveErrorsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		const slow = 50
		_, receive := newFlaky(t, quickReadErrors+slow, &log)
		begun := time.Now()
		text, err := receiveOne(receive)
		if err != nil || text != "at last" {
			t.Errorf("got %q, %v", text, err)
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
	for name, closeIt := range map[string]func(*Conn){
		"bind": func(c *Conn) { c.Bind().Close() },
		"conn": func(c *Conn) { c.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			c, receive := newFlaky(t, 1<<30, &log)
			ended := make(chan error, 1)
			go func() { _, err := receiveOne(receive); ended <- err }()
			time.Sleep(10*time.Second + time.Millisecond)
			begun := time.Now()
			closeIt(c)
			if err := <-ended; !errors.Is(err, net.ErrClosed) || time.Since(begun) > 0 {
				t.Errorf("%s: ended with %v after %v, want net.ErrClosed at once", name, err, time.Since(begun))
			}
		})
	}
}

// Without a relay, the error of the direct path is the reason why nothing could be sent.
func TestSendErrorWithoutRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, _ := newFlaky(t, 0, &log)
		peer := key.NewNodePrivate().Public()
		c.SetPeers([]Peer{{Key: peer}})
		ep := c.endpointOf(peer)
		if err := c.Bind().Send([][]byte{packet("x")}, ep); !errors.Is(err, errNoPath) {
			t.Errorf("without an address: %v, want %v", err, errNoPath)
		}
		ep.route.Store(&route{direct: netip.MustParseAddrPort("192.0.2.1:1")})
		if err := c.Bind().Send([][]byte{packet("x")}, ep); !errors.Is(err, errFlaky) {
			t.Errorf("got %v, want what the socket said", err)
		}
	})
}
