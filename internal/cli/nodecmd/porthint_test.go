package nodecmd

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"ginnel/configs"
)

// The flag whose port cannot be opened is named, with another port.
func TestPortHint(t *testing.T) {
	o := newNodeOptions("127.0.0.1:80")
	o.traffic.udpPort = 53
	for flag, value := range map[interface{ Set(string) error }]string{
		&o.local.forwards: "443:db:5432,53:dns:53/udp", &o.local.dns: "54",
	} {
		for v := range strings.SplitSeq(value, ",") {
			if err := flag.Set(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	tcp := func(port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }
	udp := func(port int) net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }
	const low, taken = "; a port from 1024 on needs no rights, such as ", "; choose another port, such as "
	for _, test := range []struct {
		addr  net.Addr
		errno syscall.Errno
		want  string
	}{
		{tcp(80), syscall.EACCES, low + "--proxy 127.0.0.1:1081"},
		{tcp(80), syscall.EADDRINUSE, taken + "--proxy 127.0.0.1:1081"},
		{tcp(443), syscall.EACCES, low + "-L 127.0.0.1:15432:db:5432"},
		{udp(53), syscall.EACCES, low + "-L 127.0.0.1:15432:dns:53/udp"},
		{udp(54), syscall.EADDRINUSE, taken + "--dns 127.0.0.1:5353"},
		{tcp(54), syscall.EACCES, low + "--dns 127.0.0.1:5353"},
		{udp(55), syscall.EADDRINUSE, taken + "--udp-port 41642"},
		{&net.UnixAddr{Net: "unix", Name: "/run/p.sock"}, syscall.EACCES,
			"; choose another path, such as unix:/tmp/ginnel.sock"},
		{tcp(80), syscall.EMFILE, ""},
	} {
		cause := fmt.Errorf("opening: %w", &net.OpError{Op: "listen", Net: test.addr.Network(), Addr: test.addr,
			Err: test.errno})
		if got, want := o.portHint(cause).Error(), cause.Error()+test.want; got != want {
			t.Errorf("%s %v: %q, want %q", test.addr.Network(), test.addr, got, want)
		}
	}
	own, err := configs.ParseProxyAddr("127.0.0.1:1081")
	if err != nil {
		t.Fatal(err)
	}
	if got := withPort(own, 1081); got != "127.0.0.1:1082" {
		t.Errorf("the port that is taken is proposed again: %s", got)
	}
}
