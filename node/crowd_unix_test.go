//go:build unix

package node

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// listenShort listens on a unix socket with a short backlog.
func listenShort(t *testing.T) *net.UnixListener {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(t.TempDir(), "service.sock")}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.UnixListener)
}

// serveEcho accepts connections on ln and echoes, until ln is closed at the end of the test.
func serveEcho(t *testing.T, ln net.Listener) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
}

// dialCrowd opens many connections to port 7 of a peer at once, and expects an echo on each.
func dialCrowd(t *testing.T, n *member, addr string, size int) {
	t.Helper()
	var wg sync.WaitGroup
	for range size {
		wg.Go(func() {
			c, err := n.DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// All connections that are dialled at once to a served port are served, even if the backlog of the
// service is short.
func TestServeCrowd(t *testing.T) {
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short := listenShort(t)
	serveEcho(t, local)
	serveEcho(t, short)
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady(func(c *Config) { c.Serves = []Serve{{7, tcp(local.Addr().String())}, {8, short.Addr()}} })
	a.start(func(c *Config) { c.WaitFor = []string{"beta:7"} })
	eventually(t, "beta:7 answers", func() bool { return a.Status().State == StateRunning })
	dialCrowd(t, a, "beta:7", 600)
	dialCrowd(t, a, "beta:8", 100)
}

// A SYN whose destination does not answer in time is dropped, so that the peer repeats it. One
// whose destination refuses is refused.
func TestPasses(t *testing.T) {
	for err, want := range map[error]bool{
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EAGAIN)}:        true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}:         true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}: true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}:     true,
		&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}:                               true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}:  false,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}:  false,
		net.ErrClosed: false,
	} {
		if got := isTemporary(err); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}
