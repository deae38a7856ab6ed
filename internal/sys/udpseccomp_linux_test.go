//go:build linux && !ginnel_stdnet

package sys

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insideVariable is set in the process that TestForbiddenCalls starts.
const insideVariable = "GINNEL_TEST_FORBIDDEN_CALLS"

// Where a seccomp filter forbids recvmmsg and sendmmsg, datagrams move one by one. The filter is
// for the life of a process, so that another one runs under it.
func TestForbiddenCalls(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestForbiddenCalls$", "-test.v")
		cmd.Env = append(os.Environ(), insideVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestForbiddenCalls") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	forbid(t, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG)
	a, b := open(t, "udp4", "127.0.0.1:0"), open(t, "udp4", "127.0.0.1:0")
	if a.Batches() {
		t.Error("the socket moves batches all the same")
	}
	batch := [][]byte{[]byte("one"), []byte("two"), []byte("three")}
	for range 3 {
		if sent, err := a.Send(batch, b.addr()); sent != countOf(batch) || err != nil {
			t.Fatalf("%+v sent, %v", sent, err)
		}
		got, from := b.collect(t, len(batch))
		for i := range batch {
			if string(got[i]) != string(batch[i]) || from != a.addr() {
				t.Errorf("got %q from %v, want %q from %v", got[i], from, batch[i], a.addr())
			}
		}
	}
	if sent, err := a.Send(batch, netip.MustParseAddrPort("[::1]:9")); err == nil {
		t.Errorf("%+v sent to another family", sent)
	}
}

// forbid has system calls fail with EPERM in all threads of the process, as Docker does.
func forbid(t *testing.T, calls ...uint32) {
	t.Helper()
	const loadNumber = 0 // offset in struct seccomp_data
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: loadNumber}}
	for i, call := range calls {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(calls) - i),
			K: call})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		t.Fatal(errno)
	}
}
