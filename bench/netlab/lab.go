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

// Hub is the address of the switch itself, where the process that made the lab is.
var Hub = netip.MustParseAddr("10.99.0.1")

// Wire says whom a host reaches.
type Wire int

const (
	Open     Wire = iota // all others
	Isolated             // only those whose wires are open, and the hub
)

// Inside makes a command start in a network namespace that is new, in which [New] can then make a
// lab. Without root it is in a new user namespace as well.
func Inside(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if id := os.Geteuid(); id != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
}

// Config is what a lab needs.
type Config struct {
	Dir string // for files with what programs write
	// Hold makes a command that does nothing until its standard input ends. It keeps the namespace
	// of a host.
	Hold func() *exec.Cmd
	// Emulate makes a command that calls the function [Emulate] with these arguments. Only hosts
	// behind a path need it.
	Emulate func(args ...string) *exec.Cmd
	// TCPBuffer is the most that a TCP socket of a host may have for sending and for receiving, in
	// bytes; 0 leaves the system's limit.
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

// New makes the switch, in the namespace of this process.
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
	plain()
	return &Lab{cfg: cfg, last: Hub}, nil
}

// plain keeps the bridge from passing each frame through the packet filter of the host, which a
// kernel with br_netfilter does in every new namespace. A switch has none. Where it cannot be kept
// from that, frames only cost more.
func plain() {
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

// Close ends all that was started, the last first.
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

// NewHost makes a machine with a wire to the switch, or a path instead of the wire.
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
	if err := h.plug(wire, path); err != nil {
		h.Close()
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	return h, nil
}

// plug connects the host to the switch.
func (h *Host) plug(wire Wire, path Path) error {
	connect := h.cable
	if path != (Path{}) {
		connect = func() error { return h.emulated(path) }
	}
	if err := connect(); err != nil {
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
		h.enlarge(),
	)
}

// cable makes a pair of devices, one of which is eth0 of the host.
func (h *Host) cable() error {
	m := strconv.Itoa(mtu)
	return run(exec.Command("ip", "link", "add", h.device, "mtu", m, "type", "veth", "peer", "name", "eth0", "mtu", m, "netns", h.pid()))
}

// emulated makes a pair of devices with a path between them, one of which is eth0 of the host.
func (h *Host) emulated(path Path) (err error) {
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

// enlarge sets the limits of TCP buffers. They belong to the namespace, so a process within has to
// do it.
func (h *Host) enlarge() error {
	most := h.lab.cfg.TCPBuffer
	if most == 0 {
		return nil
	}
	return run(h.enter("sh", "-ec", fmt.Sprintf(
		"echo 4096 131072 %d > /proc/sys/net/ipv4/tcp_rmem; echo 4096 16384 %[1]d > /proc/sys/net/ipv4/tcp_wmem", most)))
}

// Counters returns what the path of the host has counted. A host without a path has none.
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

// enter is a command of this machine that becomes one of the host: nsenter ends by becoming the
// program.
func (h *Host) enter(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", h.pid(), "-n", name}, args...)...)
}

// Command is a program to run on the host, with nothing of this environment but the search path and
// a home of its own.
func (h *Host) Command(home, name string, args ...string) *exec.Cmd {
	cmd := h.enter(name, args...)
	cmd.Env = Environment(home)
	return cmd
}

// Environment is all that a program needs.
func Environment(home string) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "TMPDIR=" + home}
}

// Close takes the machine away, with its wire. What runs on it goes on without a network.
func (h *Host) Close() error {
	if h.path != nil {
		h.path.close() // before its devices go with the namespace
	}
	h.holder.Kill()
	return nil
}

// logPath is where the output of a program goes; numbers keep those of one name apart.
func (l *Lab) logPath(name string, number int) string {
	return filepath.Join(l.cfg.Dir, fmt.Sprintf("%03d-%s.log", number, strings.ReplaceAll(name, " ", "-")))
}
