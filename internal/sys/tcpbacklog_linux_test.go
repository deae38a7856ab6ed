//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenShort listens on loopback with room for one connection that nobody has accepted, and one in
// its handshake.
func listenShort(t *testing.T) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// listenDrops is how many SYNs the kernel has dropped because a backlog was full.
func listenDrops(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	i := slices.Index(strings.Fields(lines[0]), "ListenDrops")
	n, err := strconv.Atoi(strings.Fields(lines[1])[i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// DialTCP meets a full backlog and succeeds soon after there is room. The kernel would wait for a
// second.
func TestDialFullBacklog(t *testing.T) {
	ln := listenShort(t)
	to := listenerAddr(ln)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before := listenDrops(t)
	first, err := DialTCP(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result)
	soon, cancelSoon := context.WithTimeout(ctx, time.Second) // the kernel's first repetition comes later
	defer cancelSoon()
	go func() {
		c, err := DialTCP(soon, to)
		done <- result{c, err}
	}()
	for listenDrops(t) == before {
		select {
		case r := <-done:
			t.Fatalf("the backlog was not full: %v", r.err)
		default:
		}
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	r := <-done
	if r.err != nil {
		t.Fatalf("dialing while the backlog was full: %v", r.err)
	}
	defer r.c.Close()
	second, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	r.c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := second.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("reading: %d bytes, %v", n, err)
	}
}

// A full backlog does not keep DialTCP from ending with its context.
func TestDialFullBacklogEnds(t *testing.T) {
	ln := listenShort(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for {
		c, err := DialTCP(ctx, listenerAddr(ln))
		if err == nil {
			defer c.Close()
			continue
		}
		if e, ok := err.(net.Error); !ok || !e.Timeout() {
			t.Errorf("got %v, want a timeout", err)
		}
		return
	}
}
