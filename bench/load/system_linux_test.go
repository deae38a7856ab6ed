package load

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// congestion is the congestion control that a connection has.
func congestion(t *testing.T, c net.Conn) Congestion {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if cerr := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return Congestion(name)
}
