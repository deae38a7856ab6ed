package load

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// congestion returns the congestion control of a connection.
func congestion(t *testing.T, c net.Conn) Congestion {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	cerr := raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return Congestion(name)
}
