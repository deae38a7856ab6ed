package sys

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// pair returns two sockets that are connected and do not block.
func pair(t *testing.T) (a, b uintptr) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return uintptr(fds[0]), uintptr(fds[1])
}

func TestReadAndWrite(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 8)
	if n, err := Read(a, buf); n != 0 || err != syscall.EAGAIN {
		t.Errorf("reading nothing: got %d, %v, want 0 and EAGAIN", n, err)
	}
	if n, err := Write(b, []byte("hello")); n != 5 || err != nil {
		t.Fatalf("writing: got %d, %v", n, err)
	}
	if n, err := Waiting(a); n != 5 || err != nil {
		t.Errorf("waiting: got %d, %v, want 5", n, err)
	}
	if n, err := Read(a, buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("reading: got %q, %v", buf[:n], err)
	}
}

func TestEnd(t *testing.T) {
	a, b := pair(t)
	if got := Poll(a, unix.POLLIN); got != 0 {
		t.Errorf("poll: got %x, want nothing", got)
	}
	if err := unix.Shutdown(int(b), unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if got := Poll(a, unix.POLLIN|unix.POLLRDHUP); got != unix.POLLIN|unix.POLLRDHUP {
		t.Errorf("poll at the end: got %x", got)
	}
	if n, err := Read(a, make([]byte, 8)); n != 0 || err != nil {
		t.Errorf("reading at the end: got %d, %v, want 0", n, err)
	}
	if err := unix.Shutdown(int(b), unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(a, []byte("hello")); err != syscall.EPIPE { // and no SIGPIPE
		t.Errorf("writing to nobody: got %v, want EPIPE", err)
	}
}

// A full socket takes a part, and then nothing.
func TestFull(t *testing.T) {
	a, _ := pair(t)
	b := make([]byte, 64<<20)
	n, err := Write(a, b)
	if n == 0 || n == len(b) || err != nil {
		t.Fatalf("got %d, %v, want a part", n, err)
	}
	for err == nil {
		_, err = Write(a, b)
	}
	if err != syscall.EAGAIN {
		t.Errorf("got %v, want EAGAIN", err)
	}
}

func TestBadDescriptor(t *testing.T) {
	const none = ^uintptr(0)
	_, rerr := Read(none, make([]byte, 1))
	_, werr := Write(none, make([]byte, 1))
	_, ierr := Waiting(none)
	for what, err := range map[string]error{"read": rerr, "write": werr, "waiting": ierr} {
		if !errors.Is(err, syscall.EBADF) {
			t.Errorf("%s: got %v, want EBADF", what, err)
		}
	}
}

func TestStreamsDoNotAllocate(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 8)
	if n := testing.AllocsPerRun(100, func() {
		Write(a, buf)
		Waiting(b)
		Poll(b, unix.POLLIN)
		Read(b, buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
