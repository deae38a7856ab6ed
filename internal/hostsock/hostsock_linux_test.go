package hostsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func addrPort(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

// connect returns both ends of a connection.
func connect(t *testing.T, addr string) (dialled, accepted *Conn) {
	t.Helper()
	ln := listen(t, addr)
	a, err := Dial(t.Context(), addrPort(ln))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return a.(*Conn), b.(*Conn)
}

// The rules of net.Conn, which package net's own connections keep to.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		ln := listen(t, "127.0.0.1:0")
		if c1, err = Dial(t.Context(), addrPort(ln)); err != nil {
			return nil, nil, nil, err
		}
		c2, err = ln.Accept()
		return c1, c2, func() { c1.Close(); c2.Close() }, err
	})
}

func TestAddresses(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		if addr[0] == '[' && !nettest.SupportsIPv6() {
			continue
		}
		a, b := connect(t, addr)
		if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
			t.Errorf("%s: got %v -> %v and %v -> %v", addr, a.LocalAddr(), a.RemoteAddr(), b.RemoteAddr(), b.LocalAddr())
		}
	}
}

// A listener for both families shows clients of IPv4 as such.
func TestMappedAddress(t *testing.T) {
	ln := listen(t, ":0")
	to := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), addrPort(ln).Port())
	a, err := Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, want := b.RemoteAddr().String(), a.LocalAddr().String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Who asks for no address is led to this host, and finds it there.
func TestDialUnspecified(t *testing.T) {
	ln := listen(t, ":0")
	for asked, want := range map[string]string{"0.0.0.0": "127.0.0.1", "::": "::1"} {
		if asked == "::" && !nettest.SupportsIPv6() {
			continue
		}
		c, err := Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(asked), addrPort(ln).Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != want {
			t.Errorf("%s: the peer is %s, want %s", asked, got, want)
		}
	}
}

// Both ends notice a peer that is gone, and send what is small at once.
func TestOptions(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	for name, c := range map[string]*Conn{"dialled": a, "accepted": b} {
		for _, o := range []struct{ level, name, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		} {
			c.raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); got != o.want || err != nil {
					t.Errorf("%s: option %d of level %d is %d, %v, want %d", name, o.name, o.level, got, err, o.want)
				}
			})
		}
	}
}

func TestCloseWrite(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	a.Write([]byte("question"))
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestLinger(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	if err := a.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
	if err := a.SetLinger(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

// More than the sockets hold passes, unchanged, whoever is slow.
func TestBulk(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() { a.Write(sent); a.CloseWrite() }()
	if got, err := io.ReadAll(b); !bytes.Equal(got, sent) || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(sent))
	}
}

// The peer learns of the end at once, and so does whoever waits for the connection.
func TestCloseEnded(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	waited := make(chan error)
	go func() { waited <- a.raw.Read(func(uintptr) bool { return false }) }()
	runtime.Gosched()
	if err := a.CloseEnded(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who waited for the connection is told %v", err)
	}
	if n, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads %d, %v, want EOF", n, err)
	}
}

// A connection that is closed, in either way, is it from then on, and keeps its addresses.
func TestClosed(t *testing.T) {
	for name, end := range map[string]func(*Conn) error{"Close": (*Conn).Close, "CloseEnded": (*Conn).CloseEnded} {
		dialled, accepted := connect(t, "127.0.0.1:0")
		for _, c := range []*Conn{dialled, accepted} {
			local := c.LocalAddr().String()
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			_, rerr := c.Read(make([]byte, 1))
			_, nothing := c.Read(nil)
			_, werr := c.Write(make([]byte, 1))
			for what, err := range map[string]error{
				"Read": rerr, "Read of nothing": nothing, "Write": werr, "CloseWrite": c.CloseWrite(), "SetLinger": c.SetLinger(0),
				"SetDeadline": c.SetDeadline(time.Time{}), "Close": c.Close(), "CloseEnded": c.CloseEnded(),
				"Control": c.raw.Control(func(uintptr) {}),
			} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s after %s: got %v, want ErrClosed", what, name, err)
				}
			}
			if got := c.LocalAddr().String(); got != local {
				t.Errorf("after %s: the local address is %s, was %s", name, got, local)
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	a, b := connect(t, "127.0.0.1:0")
	buf := make([]byte, 8)
	if n := testing.AllocsPerRun(100, func() {
		a.Write(buf)
		b.Read(buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A connection is opened and closed, at both ends, by this package and by package net.
func BenchmarkConnection(b *testing.B) {
	for name, by := range map[string]struct {
		listen func() (net.Listener, error)
		dial   func(context.Context, netip.AddrPort) (net.Conn, error)
	}{
		"hostsock": {func() (net.Listener, error) { return Listen("127.0.0.1:0") }, Dial},
		"net": {
			func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
			func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", to.String())
			},
		},
	} {
		b.Run(name, func(b *testing.B) {
			ln, err := by.listen()
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			b.ReportAllocs()
			for b.Loop() {
				near, err := by.dial(b.Context(), addrPort(ln))
				if err != nil {
					b.Fatal(err)
				}
				far, err := ln.Accept()
				if err != nil {
					b.Fatal(err)
				}
				near.(interface{ SetLinger(int) error }).SetLinger(0) // or the ports are used up
				near.Close()
				far.Close()
			}
		})
	}
}

// Zones have names, as those of package net.
func TestZone(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for zone, want := range map[string]string{strconv.Itoa(lo.Index): "lo", "999999": "999999", "": ""} {
		a := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zone), 80)
		if got := tcpAddr(a).Zone; got != want {
			t.Errorf("zone %q is called %q, want %q", zone, got, want)
		}
	}
}

// Some files are not for the poller. Nobody may wait for them.
func TestNotPollable(t *testing.T) {
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := new(rawConn).open(f); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want an error of the system", err)
	}
}

// A listener that does not hand on what it is set to has each connection set.
func TestForgetfulListener(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	ln.(*listener).raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	})
	for range 2 {
		a, err := Dial(t.Context(), addrPort(ln))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.(*Conn).raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 1 || err != nil {
				t.Errorf("no keep-alives: %d, %v", got, err)
			}
		})
	}
}

// No more than some descriptors wait, and none for long.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c closer
		waiting := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.files)
		}
		for range maxLeftovers + 1 {
			f, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			c.add(f)
		}
		if n := waiting(); n != 1 {
			t.Errorf("%d wait, want the last", n)
		}
		time.Sleep(leftoverDelay)
		synctest.Wait()
		if n := waiting(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// What only waits to be given back is given back when there are no other descriptors.
func TestDescriptorsRunOut(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	var ended []*Conn
	for range 2 {
		a, _ := connect(t, "127.0.0.1:0")
		ended = append(ended, a)
	}
	waiting, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	leftovers.empty()
	useUpDescriptors(t)
	ended[0].CloseEnded()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ended[1].CloseEnded()
	a, err := Dial(t.Context(), addrPort(ln))
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

// useUpDescriptors takes all descriptors that there are until the test ends, with a limit that is
// not far.
func useUpDescriptors(t *testing.T) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	for {
		fd, err := unix.Dup(2)
		if err == unix.EMFILE {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
	}
}

func TestDialRefused(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	to := addrPort(ln)
	ln.Close()
	c, err := Dial(t.Context(), to)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, %v, want ECONNREFUSED", c, err)
	}
	if got, want := err.Error(), "dial tcp "+to.String()+": connect: connection refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A listener whose queue is full does not answer, and a dial that waits for it ends with its
// context.
func TestDialEnds(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		c, err := Dial(ctx, to)
		cancel()
		if err == nil {
			defer c.Close()
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, new(net.Error)) {
			t.Errorf("got %v, want the end of its time", err)
		}
		return
	}
	t.Fatal("the queue does not become full")
}

func TestDialCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, addrPort(listen(t, "127.0.0.1:0"))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestListenerCloses(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	got := make(chan error)
	go func() { _, err := ln.Accept(); got <- err }()
	runtime.Gosched()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v", err)
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close: got %v", err)
	}
	if ln, err := net.Listen("tcp", ln.Addr().String()); err != nil {
		t.Errorf("the port is not free: %v", err)
	} else {
		ln.Close()
	}
}

func TestListenTaken(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	if _, err := Listen(ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}
