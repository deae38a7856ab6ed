package userstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// connect returns both ends of a new connection, first the one of a.
func (p *pair) connect(t testing.TB, to netip.Addr) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := p.b.Listen(netip.AddrPortFrom(to, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := netip.AddrPortFrom(to, uint16(ln.Addr().(*net.TCPAddr).Port))
	c, err := p.a.DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

func TestConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		p := newPair(t, 0)
		c1, c2 = p.connect(t, addrB4)
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// Bulk data arrive completely in both directions at once, over both families and with small and
// large MTUs. All packets on the wire are valid.
func TestBulk(t *testing.T) {
	for _, mtu := range []int{576, 1280, 1420, 9000, 65500} {
		for _, to := range []netip.Addr{addrB4, addrB6} {
			if to.Is6() && mtu < 1280 {
				continue // RFC 8200, section 5
			}
			p := newPair(t, mtu)
			a, b := p.connect(t, to)
			want := randomBytes(4<<20, uint64(mtu))
			var wg sync.WaitGroup
			for _, c := range []net.Conn{a, b} {
				wg.Go(func() {
					if _, err := c.Write(want); err != nil {
						t.Error(err)
					}
					c.(*Conn).CloseWrite()
				})
				wg.Go(func() {
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("MTU %d to %v: received %d bytes, %v, want the %d sent bytes", mtu, to, len(got), err, len(want))
					}
				})
			}
			wg.Wait()
		}
	}
}

// The direct copies between host sockets and the stack carry the same bytes, including the end of
// the stream.
func TestSocketToSocket(t *testing.T) {
	p := newPair(t, 0)
	a, b := p.connect(t, addrB4)
	near, nearEnd := tcpPair(t)
	far, farEnd := tcpPair(t)
	want := randomBytes(16<<20, 1)

	var wg sync.WaitGroup
	relay := func(dst, src net.Conn) {
		var err error
		if c, ok := dst.(*Conn); ok {
			_, err = c.ReadFrom(src)
		} else {
			_, err = src.(*Conn).WriteTo(dst)
		}
		if err != nil {
			t.Error(err)
		}
		dst.(interface{ CloseWrite() error }).CloseWrite()
	}
	wg.Go(func() { relay(a, nearEnd) })
	wg.Go(func() { relay(nearEnd, a) })
	wg.Go(func() { relay(b, farEnd) })
	wg.Go(func() { relay(farEnd, b) })
	for _, c := range []net.Conn{near, far} {
		wg.Go(func() {
			rest := want
			for len(rest) > 0 { // pieces of all sizes, because small ones are gathered
				n := min(1+len(rest)%70000, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			c.(*net.TCPConn).CloseWrite()
		})
		wg.Go(func() {
			h := sha256.New()
			if n, err := io.Copy(h, c); err != nil || n != int64(len(want)) {
				t.Errorf("received %d bytes, %v, want %d", n, err, len(want))
			}
			if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
				t.Error("bytes differ")
			}
		})
	}
	wg.Wait()
}

// tcpPair returns the two ends of a TCP connection of the host.
func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// If the reader does not read, the writer blocks, and the number of buffered bytes is bounded.
func TestBackPressure(t *testing.T) {
	p := newPair(t, 0)
	a, _ := p.connect(t, addrB4)
	a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	chunk := make([]byte, 1<<20)
	total := 0
	for {
		n, err := a.Write(chunk)
		total += n
		if err != nil {
			if !errors.Is(err, syscall.ETIMEDOUT) && !isTimeout(err) {
				t.Fatal(err)
			}
			break
		}
	}
	if limit := 2*tcpBufferMax + maxQueued; total > limit {
		t.Errorf("%d bytes were accepted although nobody reads, want at most %d", total, limit)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestHalfClose(t *testing.T) {
	p := newPair(t, 0)
	a, b := p.connect(t, addrB6)
	a.Write([]byte("question"))
	a.(*Conn).CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestLingerZeroResets(t *testing.T) {
	p := newPair(t, 0)
	a, b := p.connect(t, addrB4)
	a.(*Conn).SetLinger(0)
	a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestCloseUnblocks(t *testing.T) {
	p := newPair(t, 0)
	a, _ := p.connect(t, addrB4)
	b, _ := p.connect(t, addrB4) // another connection, which must not end with a
	ln, err := p.b.Listen(netip.AddrPortFrom(addrB4, 99))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := p.b.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	near, _ := tcpPair(t)
	blocked := map[string]func() error{
		"Read":     func() error { _, err := a.Read(make([]byte, 1)); return err },
		"WriteTo":  func() error { _, err := b.(*Conn).WriteTo(near); return err },
		"Accept":   func() error { _, err := ln.Accept(); return err },
		"ReadFrom": func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err },
	}
	var wg sync.WaitGroup
	for name, call := range blocked {
		wg.Go(func() {
			if err := call(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v, want net.ErrClosed", name, err)
			}
		})
	}
	awaitBlocked(t, len(blocked), "(*socket).wait(")
	for _, c := range []io.Closer{a, b, ln, pc} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v, want net.ErrClosed", err)
		}
	}
	wg.Wait()
}

// awaitBlocked returns when n goroutines wait in function, named as in stack traces.
func awaitBlocked(t *testing.T, n int, function string) {
	t.Helper()
	var stacks string
	for range 5000 {
		got := 0
		stacks = leaked()
		for g := range strings.SplitSeq(stacks, "\n\n") {
			head, frames, _ := strings.Cut(g, "\n")
			if strings.Contains(head, "[select") && strings.Contains(frames, function) {
				got++
			}
		}
		if got >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d goroutines do not all wait in %s:\n%s", n, function, stacks)
}

// Closing the stack ends every call, with an error by which callers can tell it from a failure.
func TestStackCloseUnblocks(t *testing.T) {
	p := newPair(t, 0)
	tcp, _ := p.connect(t, addrB4)
	tcpBulk, _ := p.connect(t, addrB4)
	ln, err := p.a.Listen(netip.AddrPortFrom(addrA4, 99))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := p.a.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	near, _ := tcpPair(t)
	p.mu.Lock()
	p.drop = func([]byte) bool { return true }
	p.mu.Unlock()
	calls := map[string]func() error{
		"Read":     func() error { _, err := tcp.Read(make([]byte, 1)); return err },
		"Write":    func() error { _, err := tcp.Write(make([]byte, 3*tcpBufferMax)); return err },
		"WriteTo":  func() error { _, err := tcpBulk.(*Conn).WriteTo(near); return err },
		"Accept":   func() error { _, err := ln.Accept(); return err },
		"ReadFrom": func() error { _, _, err := udp.ReadFrom(make([]byte, 1)); return err },
		"Dial": func() error {
			_, err := p.a.DialContext(context.Background(), "tcp", netip.AddrPortFrom(addrB4, 80).String())
			return err
		},
		"Ping": func() error { _, err := p.a.Ping(context.Background(), addrB4); return err },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			if err := call(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s while the stack is closed: %v, want net.ErrClosed", name, err)
			}
		})
	}
	awaitBlocked(t, 5, "(*socket).wait(")
	awaitBlocked(t, 1, "(*Stack).connect(")
	awaitBlocked(t, 1, "(*Stack).ping(")
	p.a.Close()
	wg.Wait()
	calls["Listen"] = func() error { _, err := p.a.Listen(netip.AddrPort{}); return err }
	calls["ListenPacket"] = func() error { _, err := p.a.ListenPacket(netip.AddrPort{}); return err }
	calls["WriteToUDP"] = func() error {
		_, err := udp.WriteToUDPAddrPort([]byte{1}, netip.AddrPortFrom(addrB4, 7))
		return err
	}
	calls["CloseWrite"] = tcp.(*Conn).CloseWrite
	calls["SetAddrs"] = func() error { return p.a.SetAddrs(nil) }
	for name, call := range calls {
		if err := call(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed stack: %v, want net.ErrClosed", name, err)
		}
	}
}

// Dial errors are those of the operating system, so that a proxy can report the reason to its
// client.
func TestDialErrors(t *testing.T) {
	p := newPair(t, 0)
	_, err := p.a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addrB4, 81).String())
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v, want ECONNREFUSED", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.a.DialContext(ctx, "tcp", "100.64.0.77:80"); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("silent host: %v, want ETIMEDOUT", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := p.a.DialContext(ctx, "tcp", "100.64.0.77:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
	only4 := newStack(t, Config{}, addrA4)
	_, err = only4.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addrB6, 80).String())
	if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("no IPv6 address: %v, want ENETUNREACH", err)
	}
	for _, bad := range [][2]string{
		{"tcp", "name:80"}, {"tcp", "100.64.0.1"}, {"tcp", "100.64.0.1:0"}, {"tcp4", "[::1]:80"}, {"tcp6", "100.64.0.1:80"},
		{"unix", "100.64.0.1:80"}, {"tcp", "100.64.0.1:99999"},
	} {
		if c, err := p.a.DialContext(t.Context(), bad[0], bad[1]); err == nil {
			c.Close()
			t.Errorf("DialContext(%q, %q) succeeded", bad[0], bad[1])
		}
	}
}
