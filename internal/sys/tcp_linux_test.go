//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// Both ends notice a peer that is gone, and send what is small at once.
func TestOptions(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
	for name, c := range map[string]*TCPConn{"dialled": a, "accepted": b} {
		for _, o := range []struct{ level, name, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
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

// The peer learns of the end at once, and so does whoever waits for the connection.
func TestCloseEnded(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
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
	for name, end := range map[string]func(*TCPConn) error{"Close": (*TCPConn).Close,
		"CloseEnded": (*TCPConn).CloseEnded} {
		dialled, accepted := connectTCP(t, "127.0.0.1:0")
		for _, c := range []*TCPConn{dialled, accepted} {
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

func TestTCPDoesNotAllocate(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
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
		"hostsock": {func() (net.Listener, error) { return ListenTCP("127.0.0.1:0") }, DialTCP},
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
				near, err := by.dial(b.Context(), listenerAddr(ln))
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
	ln := listenLocal(t, "127.0.0.1:0")
	ln.(*tcpListener).raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	})
	for range 2 {
		a, err := DialTCP(t.Context(), listenerAddr(ln))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.(*TCPConn).raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 1 || err != nil {
				t.Errorf("no keep-alives: %d, %v", got, err)
			}
		})
	}
}

// No more than some descriptors wait, and none for long.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c deferredClose
		waiting := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.files)
		}
		for range maxDeferred + 1 {
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
		time.Sleep(deferDelay)
		synctest.Wait()
		if n := waiting(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// What only waits to be given back is given back when there are no other descriptors.
func TestDescriptorsRunOut(t *testing.T) {
	ln := listenLocal(t, "127.0.0.1:0")
	var ended []*TCPConn
	for range 2 {
		a, _ := connectTCP(t, "127.0.0.1:0")
		ended = append(ended, a)
	}
	waiting, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	deferred.empty()
	useUpDescriptors(t)
	ended[0].CloseEnded()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ended[1].CloseEnded()
	a, err := DialTCP(t.Context(), listenerAddr(ln))
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

// A listener whose queue is full does not answer, and a dial that waits for it ends with its
// context.
func TestDialEnds(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		c, err := DialTCP(ctx, to)
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
