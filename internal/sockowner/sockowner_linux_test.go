package sockowner

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// connRole has this test binary connect to an address and wait until its input ends.
const connRole = "GINNEL_SOCKOWNER_CONNECT"

func TestMain(m *testing.M) {
	if addr := os.Getenv(connRole); addr != "" {
		if _, err := net.Dial("tcp", addr); err == nil {
			os.Stdin.Read(make([]byte, 1))
		}
		return
	}
	os.Exit(m.Run())
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("no %s here: %v", addr, err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A connection of this user is ours, over IPv4, IPv6, and IPv4 at a socket of both.
func TestOwnConnection(t *testing.T) {
	for listenAt, dialAt := range map[string]string{"127.0.0.1:0": "127.0.0.1", "[::1]:0": "::1", "[::]:0": "127.0.0.1"} {
		ln := listen(t, listenAt)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		c, err := net.Dial("tcp", net.JoinHostPort(dialAt, port))
		if err != nil {
			t.Fatal(err)
		}
		in := accept(t, ln)
		if !IsOurs(in) {
			t.Errorf("a connection of this process to %s is not ours", dialAt)
		}
		client, _ := addrPort(in.RemoteAddr())
		server, _ := addrPort(in.LocalAddr())
		if !isOursByProc(os.Geteuid(), client, server) {
			t.Errorf("by /proc a connection of this process to %s is not ours", dialAt)
		}
		c.Close()
		for range 100 { // until the kernel has it closed
			if !IsOurs(in) {
				break
			}
		}
		if IsOurs(in) {
			t.Errorf("a closed connection to %s is ours", dialAt)
		}
	}
	if !Known(t.Context()) {
		t.Error("owners are not known here")
	}
}

// An IPv6 socket that is connected to an IPv4 address, as a JVM makes them, has its owner in the
// table of IPv6.
func TestMappedConnection(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	defer syscall.Close(fd)
	to := &syscall.SockaddrInet6{Port: ln.Addr().(*net.TCPAddr).Port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := syscall.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	if !IsOurs(accept(t, ln)) {
		t.Error("the connection of an IPv6 socket of this process is not ours")
	}
}

// A connection of another user is not.
func TestConnectionOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	for _, user := range []uint32{1234, overflowID} {
		ln := listen(t, "127.0.0.1:0")
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{connRole + "=" + ln.Addr().String()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c := accept(t, ln)
		client, _ := addrPort(c.RemoteAddr())
		server, _ := addrPort(c.LocalAddr())
		if IsOurs(c) || isOursByProc(os.Geteuid(), client, server) {
			t.Errorf("a connection of user %d is ours", user)
		}
		in.Close()
		cmd.Wait()
	}
}

// Lines of proc_net_tcp(5), as a kernel on a little-endian machine writes them.
func TestFindOwner(t *testing.T) {
	client, server := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:1080")
	line := func(state, user, inode string) string {
		return "   1: " + procAddr(client) + " " + procAddr(server) + " " + state +
			" 00000000:00000000 00:00000000 00000000  " + user + "        0 " + inode + " 1\n"
	}
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, c := range []struct {
		name, table string
		user        int
		ok          bool
	}{
		{"established", line("01", "1000", "77"), 1000, true},
		{"root's", line("01", "0", "77"), 0, true},
		{"waiting to end, which has no user", line("06", "0", "0"), 0, false},
		{"closed by its process, which has no user", line("04", "0", "0"), 0, false},
		{"no socket", line("01", "0", "0"), 0, false},
		{"none", "", 0, false},
		{"cut off", "   1: " + procAddr(client), 0, false},
		{"our own end", strings.Replace(line("01", "7", "1"), procAddr(client)+" "+procAddr(server),
			procAddr(server)+" "+procAddr(client), 1), 0, false},
	} {
		if user, ok := findOwner(strings.NewReader(head+c.table), client, server); user != c.user || ok != c.ok {
			t.Errorf("%s: user %d, %v, want %d, %v", c.name, user, ok, c.user, c.ok)
		}
	}
}

// Connections that do not come from this machine have no owner here.
func TestRemoteConnection(t *testing.T) {
	if IsOurs(fakeConn{addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}) ||
		IsOurs(fakeConn{addr: &net.UnixAddr{}}) {
		t.Error("a connection that is not one of loopback TCP is ours")
	}
}

// fakeConn has addresses and nothing else.
type fakeConn struct {
	net.Conn
	addr net.Addr
}

func (c fakeConn) RemoteAddr() net.Addr { return c.addr }
func (c fakeConn) LocalAddr() net.Addr  { return c.addr }
