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

// hub is where servers and relays listen: it is one hop from every host. The tests run there too.
var hub = netip.MustParseAddr("10.77.0.1")

// hub6 is the hub for hosts that have IPv6 and nothing else.
var hub6 = netip.MustParseAddr("fd77::1")

// prefixes6 is where their addresses are.
const prefixes6 = "fd77:0:0:"

// servicePort is where each host has a web service of its own, on loopback, and where its node
// offers it in the mesh.
const servicePort = 8000

// otherPort is where the same service is once more, for those who may use the one and not the
// other.
const otherPort = 8001

// echoPort is where what is sent comes back.
const echoPort = 8002

// bulk is what the service sends behind the host's name when it is asked for /bulk.
const bulk = 1 << 20

// host is a machine: a network namespace with a wire to the hub. It can reach other hosts only
// after both have been unlocked; until then all that they share is what runs in the hub.
type host struct {
	t       *testing.T
	name    string
	addr    netip.Addr
	device  string // the hub's end of the wire
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
	return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) // hosts are locked one by one
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// newHost makes a host until the test ends. Its service is at these further addresses too, which
// nobody else can reach.
func newHost(t *testing.T, name string, behind ...string) *host {
	t.Helper()
	n := hosts.Add(1)
	gateway := netip.AddrFrom4([4]byte{10, 77, byte(n), 1})
	h := startHost(t, n, gateway.Next(), name, behind)
	h.wire(gateway, 30)
	return h
}

// newHost6 makes a host without IPv4.
func newHost6(t *testing.T, name string) *host {
	t.Helper()
	n := hosts.Add(1)
	gateway := netip.MustParseAddr(fmt.Sprintf("%s%x::1", prefixes6, n))
	h := startHost(t, n, gateway.Next(), name, nil)
	h.wire(gateway, 64)
	h.unlock(false)
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

// wire connects the host with the hub.
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

// plug puts the host's cable in or pulls it out, of which the hub hears nothing but silence.
func (h *host) plug(in bool) {
	h.t.Helper()
	state := map[bool]string{true: "up", false: "down"}[in]
	id := strconv.Itoa(h.process.cmd.Process.Pid)
	lines := [][]string{{"ip", "link", "set", "eth0", state}}
	if in { // which went with the link
		lines = append(lines, []string{"ip", "route", "replace", "default", "via", h.addr.Prev().String()})
	}
	for _, line := range lines {
		if out, err := exec.Command("nsenter", append([]string{"-t", id, "-n"}, line...)...).CombinedOutput(); err != nil {
			h.t.Fatalf("%v on %s: %v: %s", line, h.name, err, out)
		}
	}
}

// unlock lets what the host sends to other hosts pass, or no longer.
func (h *host) unlock(open bool) {
	h.t.Helper()
	if err := h.forward(open); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) forward(open bool) error {
	value, change := "0", "add"
	if open {
		value, change = "1", "del"
	}
	if h.addr.Is6() { // for which forwarding is not a matter of one device
		return ip("-6", "rule", change, "iif", h.device, "priority", "100", "blackhole")
	}
	return os.WriteFile("/proc/sys/net/ipv4/conf/"+h.device+"/forwarding", []byte(value), 0)
}

// command is a program to run on the host. It is one process: nsenter becomes the program.
func (h *host) command(name string, args ...string) *exec.Cmd {
	line := append([]string{"-t", strconv.Itoa(h.process.cmd.Process.Pid), "-n", binary(name)}, args...)
	return exec.Command("nsenter", line...)
}

// beHost keeps the namespace that it was started in, and serves the host's web service, until
// standard input ends.
func beHost(name string, behind []string) error {
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

// echo sends back what comes, on every connection.
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

// service answers with a name, or with bulk that begins with it.
func service(name func(*http.Request) string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name(r)) })
	mux.HandleFunc("/bulk", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, bulkText(name(r))) })
	return mux
}

// services are the addresses at which a host serves.
func services(behind []string) []string {
	all := []string{fmt.Sprintf("127.0.0.1:%d", servicePort), fmt.Sprintf("127.0.0.1:%d", otherPort)}
	for _, a := range behind {
		all = append(all, fmt.Sprintf("%s:%d", a, servicePort))
	}
	return all
}

// bulkText is the answer to a request for /bulk.
func bulkText(name string) string {
	var b strings.Builder
	b.WriteString(name)
	for i := 0; b.Len() < bulk; i++ {
		fmt.Fprintf(&b, " %d", i)
	}
	return b.String()
}
