//go:build lab

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that belongs to one test.
type netns struct {
	t    *testing.T
	name string
}

// serial numbers the namespaces and devices of a run, so that their names are unique.
var serial atomic.Uint32

// newNetns makes a namespace with its loopback interface up, and removes it at the end of the test.
func newNetns(t *testing.T, what string) *netns {
	t.Helper()
	n := &netns{t, fmt.Sprintf("%s%d-%d-%s", prefix, os.Getpid(), serial.Add(1), what)}
	mustRun(t, "ip", "netns", "add", n.name)
	t.Cleanup(func() {
		os.RemoveAll(n.etc())
		if out, err := exec.Command("ip", "netns", "del", n.name).CombinedOutput(); err != nil {
			t.Errorf("removing namespace %s: %v: %s", n.name, err, out)
		}
	})
	n.sysctl("net/ipv6/conf/all/accept_dad", "0") // addresses are usable at once, without duplicate detection
	n.sysctl("net/ipv6/conf/default/accept_dad", "0")
	n.ip("link", "set", "lo", "up")
	return n
}

// etc is the directory whose files ip-netns(8) shows in /etc to programs in the namespace.
func (n *netns) etc() string { return filepath.Join("/etc/netns", n.name) }

// writeEtc writes a file that programs in the namespace see in /etc. An existing file is changed in
// place, so that running programs see the change.
func (n *netns) writeEtc(name, text string) {
	n.t.Helper()
	if err := os.MkdirAll(n.etc(), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.etc(), name), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// ip runs ip(8) in the namespace.
func (n *netns) ip(args ...string) {
	n.t.Helper()
	mustRun(n.t, "ip", append([]string{"-n", n.name}, args...)...)
}

// addr adds addresses to an interface.
func (n *netns) addr(dev string, prefixes ...string) {
	n.t.Helper()
	for _, p := range prefixes {
		n.ip("addr", "add", p, "dev", dev)
	}
}

// route adds routes to prefixes through a gateway.
func (n *netns) route(via string, prefixes ...string) {
	n.t.Helper()
	for _, p := range prefixes {
		n.ip("route", "add", p, "via", via)
	}
}

// nft loads nftables rules in the namespace.
func (n *netns) nft(rules string) {
	n.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("nft in %s: %v: %s\n%s", n.name, err, out, rules)
	}
}

// sysctl sets a value below net/ in the namespace.
func (n *netns) sysctl(path, value string) {
	n.t.Helper()
	err := n.do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
	if err != nil {
		n.t.Fatalf("sysctl %s in %s: %v", path, n.name, err)
	}
}

// forward makes the namespace forward packets.
func (n *netns) forward() {
	n.t.Helper()
	n.sysctl("net/ipv4/ip_forward", "1")
	n.sysctl("net/ipv6/conf/all/forwarding", "1")
}

// nat makes the namespace a NAT router as in a home. With "masquerade" it maps an inside port to
// the same outside port for all destinations, with "masquerade random" to a different one for each.
// From wan it accepts only replies.
func (n *netns) nat(wan, masquerade string) {
	n.t.Helper()
	n.nft(fmt.Sprintf(`table inet home {
		chain out { type nat hook postrouting priority srcnat; oifname %[1]q %[2]s; }
		chain in { type filter hook input priority filter; iifname %[1]q ct state new drop; }
		chain through { type filter hook forward priority filter; iifname %[1]q ct state new drop; }
	}`, wan, masquerade))
}

// link connects two namespaces by a veth pair.
func link(a *netns, devA string, b *netns, devB string) {
	a.t.Helper()
	a.ip("link", "add", devA, "type", "veth", "peer", "name", devB, "netns", b.name)
	a.ip("link", "set", devA, "up")
	b.ip("link", "set", devB, "up")
}

// do runs f on a thread in the namespace. Sockets that f opens stay in the namespace.
func (n *netns) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // if the thread cannot return to its namespace, it stays locked and ends with this goroutine
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		there, err := os.Open(filepath.Join("/run/netns", n.name))
		if err != nil {
			result <- err
			return
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering %s: %w", n.name, err)
			return
		}
		result <- f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

// dial connects from the namespace to an address.
func (n *netns) dial(network, addr string) (c net.Conn, err error) {
	return n.DialContext(context.Background(), network, addr)
}

// dialTimeout bounds connections that tests make.
const dialTimeout = 20 * time.Second

// DialContext has the signature of net.Dialer's. The host must be an IP address, because a name
// would be looked up on another thread, outside the namespace.
func (n *netns) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.do(func() error {
		d := net.Dialer{Timeout: dialTimeout}
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Dial implements proxy.Dialer of golang.org/x/net/proxy.
func (n *netns) Dial(network, addr string) (net.Conn, error) { return n.dial(network, addr) }

// listenUDP opens a UDP socket in the namespace.
func (n *netns) listenUDP(addr string) *net.UDPConn {
	n.t.Helper()
	var pc net.PacketConn
	err := n.do(func() (err error) {
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

// mustRun runs a program of the host.
func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// eventually waits until done reports true, and returns how long that took.
func eventually(t *testing.T, what string, limit time.Duration, done func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}
