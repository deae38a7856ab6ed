//go:build linux && !ginnel_stdnet

package sys

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sockets returns both ends of a TCP connection, and the descriptor of the first.
func sockets(t *testing.T) (near, far net.Conn, raw RawConn) {
	t.Helper()
	ln := listenLocal(t, "127.0.0.1:0")
	defer ln.Close()
	near, err := DialTCP(t.Context(), ln.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	raw, _ = TCPStream(near)
	return near, far, raw
}

// emptyIdlePipes closes the idle pipes, so that a pipe that Splice keeps is noticed.
func emptyIdlePipes(t *testing.T) {
	t.Helper()
	for {
		select {
		case p := <-idlePipes:
			p.close()
		default:
			return
		}
	}
}

// Splice moves what is unread, up to the end of the stream, even if more was asked for.
func TestSpliceUpToTheEnd(t *testing.T) {
	in, from, src := sockets(t)
	_, to, dst := sockets(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<11)
	from.Write(sent)
	from.(*TCPConn).CloseWrite()
	eventually(t, "all bytes have arrived", func() bool {
		var n int
		src.Control(func(fd uintptr) { n, _ = Waiting(fd) })
		return n >= len(sent)
	})
	if n, err := Splice(dst, src, len(sent)+1000); n != int64(len(sent)) || err != nil {
		t.Fatalf("got %d, %v, want %d", n, err, len(sent))
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("bytes changed: %v", err)
	}
	if _, err := in.Read(got); err != io.EOF {
		t.Errorf("got %v after the last byte, want io.EOF", err)
	}
}

// If nothing is unread, Splice moves nothing and does not wait.
func TestSpliceNothingUnread(t *testing.T) {
	_, _, src := sockets(t)
	_, _, dst := sockets(t)
	if n, err := Splice(dst, src, 1000); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// A pipe that still holds bytes after an error of the destination is not kept.
func TestSpliceToClosedSocket(t *testing.T) {
	emptyIdlePipes(t)
	_, from, src := sockets(t)
	out, to, dst := sockets(t)
	from.Write(make([]byte, 1000))
	eventually(t, "all bytes have arrived", func() bool {
		var n int
		src.Control(func(fd uintptr) { n, _ = Waiting(fd) })
		return n == 1000
	})
	to.(*TCPConn).SetLinger(0)
	to.Close()
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("not reset: %v", err)
	}
	if n, err := Splice(dst, src, 1000); n != 0 || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %d, %v, want EPIPE", n, err)
	}
	if len(idlePipes) != 0 {
		t.Error("a pipe with bytes in it was kept")
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Bytes go from one socket to another through a pipe.
func TestSpliceThroughPipe(t *testing.T) {
	a, b := pair(t)
	c, d := pair(t)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	in, out := uintptr(p[1]), uintptr(p[0])
	if _, err := splice(b, in, 8); err != unix.EAGAIN {
		t.Errorf("of nothing: got %v, want EAGAIN", err)
	}
	Write(a, []byte("hello"))
	if n, err := splice(b, in, 8); n != 5 || err != nil {
		t.Fatalf("into the pipe: got %d, %v", n, err)
	}
	if n, err := splice(out, c, 5); n != 5 || err != nil {
		t.Fatalf("out of the pipe: got %d, %v", n, err)
	}
	buf := make([]byte, 8)
	if n, _ := Read(d, buf); string(buf[:n]) != "hello" {
		t.Errorf("got %q", buf[:n])
	}
	unix.Shutdown(int(a), unix.SHUT_WR)
	if n, err := splice(b, in, 8); n != 0 || err != nil {
		t.Errorf("at the end: got %d, %v", n, err)
	}
}
