package programs

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// hub is the address of servers and relays, one hop from every host. The tests run in its namespace
// too.
var hub = netip.MustParseAddr("10.77.0.1")

// hub6 is the hub's address for hosts with IPv6 only.
var hub6 = netip.MustParseAddr("fd77::1")

// prefixes6 begins the addresses of hosts with IPv6 only.
const prefixes6 = "fd77:0:0:"

// servicePort is the port of the web service that each host has on loopback, and that its node
// offers in the mesh.
const servicePort = 8000

// otherPort is a second port of the same service, for policies that allow only one of them.
const otherPort = 8001

// echoPort is the port of an echo service.
const echoPort = 8002

// bulk is the least number of bytes that the service sends for /bulk.
const bulk = 1 << 20

// host is a machine: a network namespace with a veth link to the hub. It reaches other hosts only
// after allowDirect on both. Until then they share only the servers in the hub.
type host struct {
	t       *testing.T
	name    string
	addr    netip.Addr
	device  string // the hub's end of the link
	process *process
}

var hosts atomic.Int32

// makeHub prepares the namespace that the tests run in.
func makeHub() error {
	if err := ip("link", "set", "lo", "up"); err != nil {
		return err
	}
	for _, a := range []netip.Addr{hub, outside} {
		if err := ip("addr", "add", a.String()+"/32", "dev", "lo"); err != nil {
			return err
		}
	}
	if err := ip("addr", "add", hub6.String()+"/128", "dev", "lo", "nodad"); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) // newHost6 blocks each host
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// newHost makes a host until the test ends. Its service also listens on the addresses behind, which
// no other host can reach.
func newHost(t *testing.T, name string, behind ...string) *host {
	t.Helper()
	n := hosts.Add(1)
	gateway := netip.AddrFrom4([4]byte{10, 77, byte(n), 1})
	h := startHost(t, n, gateway.Next(), name, behind)
	h.wire(gateway, 30)
	return h
}

// newHost6 makes a host without IPv4. Its direct paths are blocked, as those of newHost are.
func newHost6(t *testing.T, name string) *host {
	t.Helper()
	n := hosts.Add(1)
	gateway := netip.MustParseAddr(fmt.Sprintf("%s%x::1", prefixes6, n))
	h := startHost(t, n, gateway.Next(), name, nil)
	h.wire(gateway, 64)
	h.blockDirect()
	return h
}

func startHost(t *testing.T, n int32, addr netip.Addr, name string, behind []string) *host {
	t.Helper()
	h := &host{t: t, name: name, addr: addr, device: fmt.Sprintf("wire%d", n)}
	cmd := exec.Command("/proc/self/exe", append([]string{name}, behind...)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+hostRole)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	h.process = start(t, name+"'s host", cmd)
	h.process.await("ready\n")
	return h
}

// wire links the host to the hub.
func (h *host) wire(gateway netip.Addr, bits int) {
	h.t.Helper()
	id := strconv.Itoa(h.process.cmd.Process.Pid)
	inside := func(args ...string) []string { return append([]string{"nsenter", "-t", id, "-n", "ip"}, args...) }
	for _, line := range [][]string{
		{"ip", "link", "add", h.device, "type", "veth", "peer", "name", "eth0", "netns", id},
		{"ip", "addr", "add", netip.PrefixFrom(gateway, bits).String(), "dev", h.device, "nodad"},
		{"ip", "link", "set", h.device, "up"},
		inside("link", "set", "lo", "up"),
		inside("addr", "add", netip.PrefixFrom(h.addr, bits).String(), "dev", "eth0", "nodad"),
		inside("link", "set", "eth0", "up"),
		inside("route", "add", "default", "via", gateway.String()),
	} {
		if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
			h.t.Fatalf("%v: %v: %s", line, err, out)
		}
	}
}

// linkState is the state of a host's link.
type linkState string

const (
	linkUp   linkState = "up"
	linkDown linkState = "down"
)

// setLink sets the host's link up or down. For the hub, a host whose link is down is only silent.
func (h *host) setLink(state linkState) {
	h.t.Helper()
	id := strconv.Itoa(h.process.cmd.Process.Pid)
	lines := [][]string{{"ip", "link", "set", "eth0", string(state)}}
	if state == linkUp { // the kernel removed the route with the link
		lines = append(lines, []string{"ip", "route", "replace", "default", "via", h.addr.Prev().String()})
	}
	for _, line := range lines {
		if out, err := exec.Command("nsenter", append([]string{"-t", id, "-n"}, line...)...).CombinedOutput(); err != nil {
			h.t.Fatalf("%v on %s: %v: %s", line, h.name, err, out)
		}
	}
}

// allowDirect makes the hub forward what the host sends to other hosts.
func (h *host) allowDirect() {
	h.t.Helper()
	h.setForwarding("1", "del")
}

// blockDirect undoes allowDirect.
func (h *host) blockDirect() {
	h.t.Helper()
	h.setForwarding("0", "add")
}

// setForwarding sets the forwarding of packets from the host: by a sysctl value for IPv4. IPv6
// forwarding cannot be switched by device, so for IPv6 it adds or deletes a blackhole rule.
func (h *host) setForwarding(value, ruleCommand string) {
	h.t.Helper()
	var err error
	if h.addr.Is6() {
		err = ip("-6", "rule", ruleCommand, "iif", h.device, "priority", "100", "blackhole")
	} else {
		err = os.WriteFile("/proc/sys/net/ipv4/conf/"+h.device+"/forwarding", []byte(value), 0)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// command runs a program on the host. It stays one process, because nsenter execs the program.
func (h *host) command(name string, args ...string) *exec.Cmd {
	line := append([]string{"-t", strconv.Itoa(h.process.cmd.Process.Pid), "-n", binary(name)}, args...)
	return exec.Command("nsenter", line...)
}

// runHost keeps its network namespace and serves the host's services until its standard input ends.
func runHost(name string, behind []string) error {
	if err := ip("link", "set", "lo", "up"); err != nil {
		return err
	}
	for _, a := range behind {
		if err := ip("addr", "add", a, "dev", "lo"); err != nil {
			return err
		}
	}
	mux := service(func(*http.Request) string { return name })
	for _, address := range services(behind) {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go http.Serve(ln, mux)
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", echoPort))
	if err != nil {
		return err
	}
	go echo(ln)
	fmt.Fprintln(os.Stderr, "ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// echo returns all data on every connection of ln.
func echo(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// service answers with a name, or for /bulk with bulkText of it.
func service(name func(*http.Request) string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name(r)) })
	mux.HandleFunc("/bulk", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, bulkText(name(r))) })
	return mux
}

// services returns the addresses at which a host serves.
func services(behind []string) []string {
	all := []string{fmt.Sprintf("127.0.0.1:%d", servicePort), fmt.Sprintf("127.0.0.1:%d", otherPort)}
	for _, a := range behind {
		all = append(all, fmt.Sprintf("%s:%d", a, servicePort))
	}
	return all
}

// bulkText is the answer to a request for /bulk: a text that begins with name.
func bulkText(name string) string {
	var b strings.Builder
	b.WriteString(name)
	for i := 0; b.Len() < bulk; i++ {
		fmt.Fprintf(&b, " %d", i)
	}
	return b.String()
}
