package peer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ginnel/bench/load"
	"ginnel/bench/netlab"
)

// Group is a group of contenders that are compared with each other.
type Group string

// The groups.
const (
	DirectGroup Group = "direct"  // nodes with direct UDP between them
	RelayGroup  Group = "relayed" // nodes that reach each other only through a relay
	DERPGroup   Group = "relay"   // relays on their own
)

// Contender is one configuration of programs that is measured.
type Contender struct {
	Name    string
	Group   Group
	modules []module
	relay   relayKind
	mesh    func(machine, *control) Node // makes a node of a mesh
	plain   func(machine, tunnel) Node   // or makes one end of a WireGuard tunnel
	proxies
	// NoDatagrams is set if the program does not carry UDP to a service behind the other node.
	NoDatagrams bool
	// Core is set if the contender is measured on every path, not only on the main ones.
	Core  bool
	build Programs // directory of the measured ginnel, if not that of the other programs
}

// Contenders returns all contenders on the switch, in the order of their turns.
func Contenders() []*Contender {
	own, both := []module{ginnelModule}, []module{ginnelModule, tailscaledModule}
	one, two := proxiesAt(socksAddr, socksAddr), proxiesAt(socksAddr, httpAddr)
	none := load.Proxy{Kind: load.Direct}
	return []*Contender{
		{Name: "kernel", Group: DirectGroup, proxies: proxies{none, none}},
		{Name: "ginnel", Group: DirectGroup, modules: own, mesh: newGinnel, proxies: one},
		{Name: "tailscaled", Group: DirectGroup, modules: both, mesh: newTailscaled, proxies: two},
		{Name: "ginnel-wireguard", Group: DirectGroup, modules: own, plain: newGinnelPlain, proxies: one},
		{Name: "wireproxy", Group: DirectGroup, modules: []module{wireproxyModule}, plain: newWireproxy, proxies: two,
			NoDatagrams: true},
		{Name: "ginnel/ginnel-relay", Group: RelayGroup, modules: own, mesh: newGinnel, relay: ginnelRelay, proxies: one},
		{Name: "tailscaled/derper", Group: RelayGroup, modules: append(both, derperModule), mesh: newTailscaled,
			relay: derper, proxies: two},
		{Name: "tailscaled/ginnel-relay", Group: RelayGroup, modules: both, mesh: newTailscaled, relay: ginnelRelay,
			proxies: two},
		{Name: "ginnel-relay", Group: DERPGroup, modules: own, relay: ginnelRelay},
		{Name: "derper", Group: DERPGroup, modules: []module{derperModule}, relay: derper},
	}
}

// PathContenders returns the contenders on emulated paths, in the order of their turns.
func PathContenders() []*Contender {
	own, both := []module{ginnelModule}, []module{ginnelModule, tailscaledModule}
	one, two := proxiesAt(socksAddr, socksAddr), proxiesAt(socksAddr, httpAddr)
	kernel := func(name string, cc load.Congestion) *Contender {
		p := load.Proxy{Kind: load.Direct, Congestion: cc}
		return &Contender{Name: name, Group: DirectGroup, proxies: proxies{p, p}, Core: true}
	}
	forwarded := kernel("kernel-forwarded", load.CUBIC)
	forwarded.Group, forwarded.relay, forwarded.Core = RelayGroup, forwarder, false
	return []*Contender{
		kernel("kernel-cubic", load.CUBIC), kernel("kernel-bbr", load.BBR),
		{Name: "ginnel", Group: DirectGroup, modules: own, mesh: newGinnel, proxies: one, Core: true},
		{Name: "tailscaled", Group: DirectGroup, modules: both, mesh: newTailscaled, proxies: two, Core: true},
		{Name: "ginnel-wireguard", Group: DirectGroup, modules: own, plain: newGinnelPlain, proxies: one},
		{Name: "wireproxy", Group: DirectGroup, modules: []module{wireproxyModule}, plain: newWireproxy, proxies: two,
			NoDatagrams: true},
		forwarded,
		{Name: "ginnel/ginnel-relay", Group: RelayGroup, modules: own, mesh: newGinnel, relay: ginnelRelay, proxies: one},
		{Name: "ginnel/derper", Group: RelayGroup, modules: []module{ginnelModule, derperModule}, mesh: newGinnel,
			relay: derper, proxies: one},
		{Name: "tailscaled/derper", Group: RelayGroup, modules: []module{ginnelModule, tailscaledModule, derperModule},
			mesh: newTailscaled, relay: derper, proxies: two},
	}
}

// WithBefore inserts after each contender that consists of our programs the same with another
// build, from the directory before.
func WithBefore(all []*Contender, before Programs) (both []*Contender) {
	for _, c := range all {
		both = append(both, c)
		if c.ours() {
			old := *c
			old.Name, old.build = c.Name+"-before", before
			old.modules = slices.DeleteFunc(slices.Clone(c.modules), func(m module) bool { return m.dir == ginnelModule.dir })
			both = append(both, &old)
		}
	}
	return both
}

// HasNodes reports whether programs carry the connections, rather than only the kernel.
func (c *Contender) HasNodes() bool { return c.mesh != nil || c.plain != nil }

// ours reports whether the measured nodes or the measured relay are our programs.
func (c *Contender) ours() bool {
	return strings.HasPrefix(c.Name, "ginnel")
}

// Testbed is where contenders run, one after the other.
type Testbed struct {
	Lab      *netlab.Lab
	Programs Programs
	Dir      string   // for state directories, one for each program and trial
	Forward  []string // command of a TCP forwarder, to which its listen and target addresses are appended
}

// Trial is a contender whose hosts and servers run. Its nodes are not started.
type Trial struct {
	Contender *Contender
	Client    *netlab.Host // host of the load generator
	Service   *netlab.Host // host of the service; nil in the DERP group
	Near, Far Node         // on Client and Service; nil if there are none
	Relay     *Relay       // nil if the contender has no separate relay
	Direct    netip.Addr   // address of the service for a client without a node
	path      netlab.Path
	closers   []func()
}

// Close ends the nodes, and everything that Prepare started.
func (t *Trial) Close() {
	for _, n := range []Node{t.Near, t.Far} {
		if n != nil && n.Process() != nil {
			n.Process().Stop()
		}
	}
	for i := len(t.closers) - 1; i >= 0; i-- {
		t.closers[i]()
	}
}

// Prepare creates the hosts and starts the servers that a contender needs. Only the service's host
// is behind the path.
func (g *Testbed) Prepare(ctx context.Context, c *Contender, path netlab.Path) (*Trial, error) {
	t := &Trial{Contender: c, path: path}
	if err := g.prepare(ctx, t); err != nil {
		t.Close()
		return nil, fmt.Errorf("preparing %s: %w", c.Name, err)
	}
	return t, nil
}

func (g *Testbed) prepare(ctx context.Context, t *Trial) (err error) {
	wire := netlab.Open
	if t.Contender.Group == RelayGroup {
		wire = netlab.Isolated
	}
	near, err := g.machine(t, "alpha", wire, netlab.Path{})
	if err != nil {
		return err
	}
	t.Client = near.host
	var far machine
	if t.Contender.Group != DERPGroup {
		if far, err = g.machine(t, "beta", wire, t.path); err != nil {
			return err
		}
		t.Service, t.Direct = far.host, far.host.Addr
	}
	if t.Contender.relay != ownRelay {
		m, err := g.machine(t, "relay", netlab.Open, netlab.Path{})
		if err != nil {
			return err
		}
		if t.Relay, err = g.startRelay(ctx, m, t); err != nil {
			return err
		}
		t.closers = append(t.closers, t.Relay.Process.Stop)
	}
	return g.nodes(ctx, t, near, far)
}

// startRelay starts the relay of a trial. Clients without a node reach the service through a
// forwarder.
func (g *Testbed) startRelay(ctx context.Context, m machine, t *Trial) (*Relay, error) {
	if t.Contender.relay != forwarder {
		return startRelay(ctx, m, t.Contender.relay)
	}
	to := netip.AddrPortFrom(t.Direct, ServicePort)
	t.Direct = m.host.Addr
	return startForwarder(ctx, m, g.Forward, to)
}

// nodes creates the nodes, and the coordination server if they need one.
func (g *Testbed) nodes(ctx context.Context, t *Trial, near, far machine) error {
	switch c := t.Contender; {
	case c.mesh != nil:
		dir, err := g.directory("control")
		if err != nil {
			return err
		}
		server, err := startControl(ctx, g.Lab, g.Programs, dir, t.Relay)
		if err != nil {
			return err
		}
		t.closers = append(t.closers, server.process.Stop)
		t.Near, t.Far = c.mesh(near, server), c.mesh(far, server)
	case c.plain != nil:
		ends, err := newTunnel(near.host.Addr, far.host.Addr)
		if err != nil {
			return err
		}
		t.Near, t.Far = c.plain(near, ends[0]), c.plain(far, ends[1])
	}
	return nil
}

// machine creates a host that lives as long as the trial.
func (g *Testbed) machine(t *Trial, name string, wire netlab.Wire, path netlab.Path) (machine, error) {
	host, err := g.Lab.NewHost(name, wire, path)
	if err != nil {
		return machine{}, err
	}
	t.closers = append(t.closers, func() { host.Close() })
	dir, err := g.directory(name)
	build := cmp.Or(t.Contender.build, g.Programs)
	return machine{host: host, lab: g.Lab, programs: g.Programs, build: build, dir: dir}, err
}

func (g *Testbed) directory(name string) (string, error) {
	return os.MkdirTemp(filepath.Clean(g.Dir), name+"-")
}
