package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const (
	bridge = "switch"
	mtu    = 1500
)

// Hub is the address of the switch in the namespace of the process that created the lab.
var Hub = netip.MustParseAddr("10.99.0.1")

// Wire is which other hosts a host reaches.
type Wire int

const (
	Open     Wire = iota // all hosts
	Isolated             // only hosts with an open wire, and the hub
)

// Inside makes a command start in a new network namespace, in which [New] can create a lab. Without
// root the command also gets a new user namespace.
func Inside(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if id := os.Geteuid(); id != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
}

// Config configures a lab.
type Config struct {
	Dir string // directory for the output of programs
	// Hold returns a command that does nothing until its standard input ends. It keeps the
	// namespace of a host.
	Hold func() *exec.Cmd
	// Emulate returns a command that calls the function [Emulate] with these arguments. It is
	// needed only for hosts behind a path.
	Emulate func(args ...string) *exec.Cmd
	// TCPBuffer is the maximum of a TCP socket's send and receive buffers on the hosts, in bytes.
	// Zero leaves the system's limit.
	TCPBuffer int
}

// Lab is a switch with hosts.
type Lab struct {
	cfg Config

	mu    sync.Mutex
	last  netip.Addr
	all   []*Process
	count int
}

// New creates the switch in the namespace of this process.
func New(cfg Config) (*Lab, error) {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "mtu", strconv.Itoa(mtu), "type", "bridge"},
		{"addr", "add", Hub.String() + "/16", "dev", bridge},
		{"link", "set", bridge, "up"},
	} {
		if err := run(exec.Command("ip", args...)); err != nil {
			return nil, err
		}
	}
	disableBridgeFilter()
	return &Lab{cfg: cfg, last: Hub}, nil
}

// disableBridgeFilter stops the kernel from passing each bridged frame through the packet filter,
// which br_netfilter does in every new namespace. A real switch does not do that. If it cannot be
// disabled, frames only cost more.
func disableBridgeFilter() {
	for _, table := range []string{"iptables", "ip6tables", "arptables"} {
		os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+table, []byte("0"), 0)
	}
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// Close ends all programs, the last one first.
func (l *Lab) Close() error {
	l.mu.Lock()
	all := slices.Clone(l.all)
	l.mu.Unlock()
	for _, p := range slices.Backward(all) {
		p.Kill()
	}
	return nil
}

// Host is a machine of the lab.
type Host struct {
	Name   string
	Addr   netip.Addr
	lab    *Lab
	holder *Process
	device string    // the port of the switch
	path   *emulator // nil without one
}

// NewHost creates a host, with a veth link to the switch or behind a path if path is not zero.
func (l *Lab) NewHost(name string, wire Wire, path Path) (*Host, error) {
	l.mu.Lock()
	l.last = l.last.Next()
	addr := l.last
	l.count++
	device := fmt.Sprintf("wire%d", l.count)
	l.mu.Unlock()
	cmd := l.cfg.Hold()
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	holder, err := l.Start(name, cmd)
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, Addr: addr, lab: l, holder: holder, device: device}
	if err := h.connect(wire, path); err != nil {
		h.Close()
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	return h, nil
}

// connect connects the host to the switch and configures its network.
func (h *Host) connect(wire Wire, path Path) error {
	addLink := h.addVeth
	if path != (Path{}) {
		addLink = func() error { return h.addPath(path) }
	}
	if err := addLink(); err != nil {
		return err
	}
	isolated := map[Wire]string{Open: "off", Isolated: "on"}[wire]
	return errors.Join(
		run(exec.Command("ip", "link", "set", h.device, "master", bridge)),
		run(exec.Command("ip", "link", "set", h.device, "type", "bridge_slave", "isolated", isolated)),
		run(exec.Command("ip", "link", "set", h.device, "up")),
		run(h.enter("ip", "link", "set", "lo", "up")),
		run(h.enter("ip", "addr", "add", h.Addr.String()+"/16", "dev", "eth0")),
		run(h.enter("ip", "link", "set", "eth0", "up")),
		run(h.enter("ip", "route", "add", "default", "via", Hub.String())),
		h.setTCPBuffers(),
	)
}

// addVeth creates a veth pair, whose far end is the host's eth0.
func (h *Host) addVeth() error {
	m := strconv.Itoa(mtu)
	return run(exec.Command("ip", "link", "add", h.device, "mtu", m, "type", "veth", "peer", "name", "eth0", "mtu", m,
		"netns", h.pid()))
}

// addPath creates the two devices of an emulated path, the far one of which is the host's eth0.
func (h *Host) addPath(path Path) (err error) {
	far := h.device + "far"
	if h.path, err = h.lab.startEmulator(h.device, far, path); err != nil {
		return err
	}
	return errors.Join(
		run(exec.Command("ip", "link", "set", h.device, "txqueuelen", queueLength)),
		run(exec.Command("ip", "link", "set", far, "txqueuelen", queueLength)),
		run(exec.Command("ip", "link", "set", far, "netns", h.pid(), "name", "eth0")),
	)
}

// setTCPBuffers sets the limits of TCP buffers. They belong to the namespace, so a process inside
// it has to do that.
func (h *Host) setTCPBuffers() error {
	most := h.lab.cfg.TCPBuffer
	if most == 0 {
		return nil
	}
	return run(h.enter("sh", "-ec", fmt.Sprintf(
		"echo 4096 131072 %d > /proc/sys/net/ipv4/tcp_rmem; echo 4096 16384 %[1]d > /proc/sys/net/ipv4/tcp_wmem", most)))
}

// Counters returns the counters of the host's path. Without a path they are zero.
func (h *Host) Counters() (Counters, error) {
	if h.path == nil {
		return Counters{}, nil
	}
	c, err := h.path.counters()
	near, nerr := sendDrops("self", h.device)
	far, ferr := sendDrops(h.pid(), "eth0")
	c.Overrun = near + far
	return c, errors.Join(err, nerr, ferr)
}

func (h *Host) pid() string { return strconv.Itoa(h.holder.PID()) }

// enter returns a command that runs in the host's namespace. It stays one process, because nsenter
// execs the program.
func (h *Host) enter(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", h.pid(), "-n", name}, args...)...)
}

// Command returns a command that runs a program on the host, with only a search path and its own
// home directory in its environment.
func (h *Host) Command(home, name string, args ...string) *exec.Cmd {
	cmd := h.enter(name, args...)
	cmd.Env = Environment(home)
	return cmd
}

// Environment returns the environment of a program with its own home directory.
func Environment(home string) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "TMPDIR=" + home}
}

// Close removes the host and its link. Programs that run on it keep running without a network.
func (h *Host) Close() error {
	if h.path != nil {
		h.path.close() // before its devices disappear with the namespace
	}
	h.holder.Kill()
	return nil
}

// logPath returns the file for the output of a program. The number keeps programs with the same
// name apart.
func (l *Lab) logPath(name string, number int) string {
	return filepath.Join(l.cfg.Dir, fmt.Sprintf("%03d-%s.log", number, strings.ReplaceAll(name, " ", "-")))
}
