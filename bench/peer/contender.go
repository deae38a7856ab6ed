package peer

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"ginnel/bench/load"
	"ginnel/bench/netlab"
)

// Group is what contenders are compared in.
type Group string

// The groups.
const (
	DirectGroup Group = "direct"  // nodes with UDP between them
	RelayGroup  Group = "relayed" // nodes that have a relay only
	DERPGroup   Group = "relay"   // relays on their own
)

// Contender is one way to have what is compared.
type Contender struct {
	Name    string
	Group   Group
	modules []module
	relay   relayKind
	mesh    func(machine, *control) Node // a node of a mesh
	plain   func(machine, tunnel) Node   // or one end of a tunnel
	proxies
	// NoDatagrams says that it does not pass UDP to a service behind the other node.
	NoDatagrams bool
	programs    Programs // where its programs are, if not where the others' are
}

// Contenders are all there are, in the order in which they take their turns.
func Contenders() []*Contender {
	own, both := []module{ginnelModule}, []module{ginnelModule, tailscaleModule}
	one, two := proxiesAt(socksAddr, socksAddr), proxiesAt(socksAddr, httpAddr)
	none := load.Proxy{Kind: load.Direct}
	return []*Contender{
		{Name: "kernel", Group: DirectGroup, proxies: proxies{none, none}},
		{Name: "ginnel", Group: DirectGroup, modules: own, mesh: newGinnel, proxies: one},
		{Name: "tailscaled", Group: DirectGroup, modules: both, mesh: newTailscaled, proxies: two},
		{Name: "ginnel-wireguard", Group: DirectGroup, modules: own, plain: newGinnelPlain, proxies: one},
		{Name: "wireproxy", Group: DirectGroup, modules: []module{wireproxyModule}, plain: newWireproxy, proxies: two, NoDatagrams: true},
		{Name: "ginnel/ginnel-relay", Group: RelayGroup, modules: own, mesh: newGinnel, relay: ginnelRelay, proxies: one},
		{Name: "tailscaled/derper", Group: RelayGroup, modules: both, mesh: newTailscaled, relay: derper, proxies: two},
		{Name: "tailscaled/ginnel-relay", Group: RelayGroup, modules: both, mesh: newTailscaled, relay: ginnelRelay, proxies: two},
		{Name: "ginnel-relay", Group: DERPGroup, modules: own, relay: ginnelRelay},
		{Name: "derper", Group: DERPGroup, modules: []module{tailscaleModule}, relay: derper},
	}
}

// WithBefore has every contender that is ours alone followed by the same of another build, from directory before.
func WithBefore(all []*Contender, before Programs) (both []*Contender) {
	for _, c := range all {
		both = append(both, c)
		if len(c.modules) == 1 && c.modules[0].dir == ginnelModule.dir {
			old := *c
			old.Name, old.programs, old.modules = c.Name+"-before", before, nil
			both = append(both, &old)
		}
	}
	return both
}

// Ground is where contenders run, one after the other.
type Ground struct {
	Lab      *netlab.Lab
	Programs Programs
	Dir      string // for state, one directory for each trial
}

// Trial is a contender that is set up. Its nodes are not started.
type Trial struct {
	Contender *Contender
	Client    *netlab.Host // where the load comes from
	Service   *netlab.Host // where it goes to; nil in the group of relays
	Near, Far Node         // on those; nil if they have none
	Relay     *Relay       // nil if it has none of its own
	closers   []func()
}

// Close ends what the trial has started.
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

// Prepare makes the machines and starts the servers that a contender needs.
func (g *Ground) Prepare(ctx context.Context, c *Contender) (*Trial, error) {
	t := &Trial{Contender: c}
	if err := g.prepare(ctx, t); err != nil {
		t.Close()
		return nil, fmt.Errorf("preparing %s: %w", c.Name, err)
	}
	return t, nil
}

func (g *Ground) prepare(ctx context.Context, t *Trial) (err error) {
	wire := netlab.Open
	if t.Contender.Group == RelayGroup {
		wire = netlab.Isolated
	}
	near, err := g.machine(t, "alpha", wire)
	if err != nil {
		return err
	}
	t.Client = near.host
	if t.Contender.relay != ownRelay {
		m, err := g.machine(t, "relay", netlab.Open)
		if err != nil {
			return err
		}
		if t.Relay, err = startRelay(ctx, m, t.Contender.relay); err != nil {
			return err
		}
		t.closers = append(t.closers, t.Relay.Process.Stop)
	}
	if t.Contender.Group == DERPGroup {
		return nil
	}
	far, err := g.machine(t, "beta", wire)
	if err != nil {
		return err
	}
	t.Service = far.host
	return g.nodes(ctx, t, near, far)
}

// nodes makes the nodes, and the coordination server of those that need one.
func (g *Ground) nodes(ctx context.Context, t *Trial, near, far machine) error {
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

// machine makes one for the time of a trial.
func (g *Ground) machine(t *Trial, name string, wire netlab.Wire) (machine, error) {
	host, err := g.Lab.NewHost(name, wire)
	if err != nil {
		return machine{}, err
	}
	t.closers = append(t.closers, func() { host.Close() })
	dir, err := g.directory(name)
	return machine{host: host, lab: g.Lab, programs: cmp.Or(t.Contender.programs, g.Programs), dir: dir}, err
}

func (g *Ground) directory(name string) (string, error) {
	return os.MkdirTemp(filepath.Clean(g.Dir), name+"-")
}
