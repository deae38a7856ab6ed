package neterr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

func TestCause(t *testing.T) {
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))
	for _, tt := range []struct {
		addr string
		err  error
		want string
	}{
		{"192.0.2.1:80", &net.OpError{Op: "dial", Net: "tcp", Addr: to, Err: refused}, "connect: connection refused"},
		{"web:80", &net.OpError{Op: "dial", Net: "tcp", Addr: to, Err: refused},
			"dial tcp 192.0.2.1:80: connect: connection refused"},
		{"web:80", &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "web"}},
			"lookup web: no such host"},
		{"192.0.2.1:80", &net.OpError{Op: "read", Net: "tcp", Addr: to, Err: refused},
			"read tcp 192.0.2.1:80: connect: connection refused"},
		{"192.0.2.1:80", fmt.Errorf("by proxy: %w", &net.OpError{Op: "dial", Net: "tcp", Addr: to, Err: refused}),
			"by proxy: dial tcp 192.0.2.1:80: connect: connection refused"},
		{"192.0.2.1:80", errors.New("other"), "other"},
	} {
		if got := Cause(tt.addr, tt.err); got.Error() != tt.want {
			t.Errorf("Cause(%q, %q) = %q, want %q", tt.addr, tt.err, got, tt.want)
		}
	}
	if err := Cause("192.0.2.1:80", &net.OpError{Op: "dial", Addr: to, Err: refused}); !errors.Is(err,
		syscall.ECONNREFUSED) {
		t.Errorf("%v has lost its errno", err)
	}
}
