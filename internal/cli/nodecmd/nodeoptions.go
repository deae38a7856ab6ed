package nodecmd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/meshaddr"
	"ginnel/key"
	"ginnel/node"
	"ginnel/tuning"
)

// nodeOptions are those of commands that run a node.
type nodeOptions struct {
	config    string
	wireguard string // file of the network, instead of join
	state     string
	join      joinOptions
	local     localOptions
	traffic   trafficOptions
	memory    cli.Parsed[int64]
	tuning    cli.Parsed[tuning.Mode]
	waitFor   cli.List[string]
	timeout   time.Duration // until the node is ready
	log       cli.LogFlags
	showLogin func(url string) // instead of on standard error; nil: there
}

// joinOptions are about the network of a coordination server.
type joinOptions struct {
	url          string
	serverKey    cli.Parsed[key.MachinePublic]
	authKey      cli.Parsed[cli.SecretText]
	caFile       string
	hostname     string
	tags         []string
	ephemeral    bool
	acceptRoutes bool
	exitNode     string
	advertise    []string
	beExitNode   bool
}

// localOptions are about what the node opens to this machine, and what of this machine it opens to
// the mesh.
type localOptions struct {
	proxies      *cli.List[configs.Address]
	proxyAuth    cli.Parsed[configs.ProxyAuth]
	userProxy    net.Addr // of Config.UserProxy: set by run, not by a flag
	associations int      // of UDP through the proxy
	forwards     cli.List[configs.Forward]
	serves       cli.List[configs.Serve]
	dns          cli.Parsed[configs.Address]
}

// trafficOptions are about the connections and the packets of the node.
type trafficOptions struct {
	meshOnly    bool
	relayOnly   bool
	udpPort     uint16
	dialTimeout time.Duration
	congestion  cli.Parsed[node.Congestion]
}

// newNodeOptions returns the defaults. proxy is where the proxy listens.
func newNodeOptions(proxy string) *nodeOptions {
	return &nodeOptions{
		join: joinOptions{
			serverKey: cli.Parsed[key.MachinePublic]{Parse: key.ParseMachinePublic, Kind: "key"},
			authKey:   cli.Parsed[cli.SecretText]{Parse: cli.ParseSecret, Kind: "key", Secret: true},
		},
		local: localOptions{
			proxies:   cli.Preset(&cli.List[configs.Address]{Parse: parseListener}, proxy),
			proxyAuth: cli.Parsed[configs.ProxyAuth]{Parse: configs.ParseProxyAuth, Kind: "user:pass", Secret: true},
			forwards:  cli.List[configs.Forward]{Parse: configs.ParseForward},
			serves:    cli.List[configs.Serve]{Parse: configs.ParseServe},
			dns:       cli.Parsed[configs.Address]{Parse: configs.ParseDNSAddr, Kind: "addr"},
		},
		traffic: trafficOptions{congestion: cli.Parsed[node.Congestion]{Parse: node.ParseCongestion, Kind: "name"}},
		memory:  cli.Parsed[int64]{Parse: configs.ParseSize, Kind: "size"},
		tuning:  cli.Parsed[tuning.Mode]{Parse: tuning.ParseMode, Kind: "on"},
		waitFor: cli.List[string]{Parse: cli.ParseTarget},
	}
}

func (o *nodeOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&o.wireguard, "wireguard", "", "wg-quick `file` of the network to join, without a server")
	fs.StringVar(&o.state, "state", "",
		"state `dir`ectory, which is closed to other users (0700); \"mem:\" leaves nothing on disk "+
			"($XDG_STATE_HOME/ginnel or ~/.local/state/ginnel)")
	fs.Var(&o.waitFor, "wait-for",
		"`host[:port]` that must answer before the node is ready: to a ping, or to a connection; repeatable")
	fs.DurationVar(&o.timeout, "timeout", readyTimeout, "how long to wait for the node to be ready")
	fs.Var(&o.memory, "memory",
		"`size` of memory that buffers and the runtime are sized by; connections wait and become slower rather "+
			"than take much more (half of the control group's limit, a quarter of the machine's memory, at most 640MiB)")
	fs.Var(&o.tuning, "tuning",
		"`on` lets the node choose its number of processors, poll the network and give memory back; "+
			"off leaves the Go runtime alone, except for the memory budget (on)")
	o.join.addFlags(fs)
	o.local.addFlags(fs)
	o.traffic.addFlags(fs)
	o.log.Add(fs)
	o.log.AddConnections(fs)
}

func (o *joinOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.url, "control", "", "`URL` of the coordination server of the network to join")
	fs.Var(&o.serverKey, "server-key",
		"`mkey:…` that the coordination server must have (the one that it shows first, over https)")
	fs.Var(&o.authKey, "authkey",
		"pre-auth `key`, or file:PATH with it; without one somebody has to approve the node")
	fs.StringVar(&o.hostname, "hostname", "", "`name` of the node in the network (this host's)")
	fs.StringSliceVar(&o.tags, "tags", nil, "`tag`s to ask for, each as tag:NAME; repeatable")
	fs.BoolVar(&o.ephemeral, "ephemeral", false, "leave no trace: state in memory, and the server forgets the node")
	fs.BoolVar(&o.acceptRoutes, "accept-routes", false, "use the subnets that peers advertise")
	fs.StringVar(&o.exitNode, "exit-node", "", "`peer` through which to reach what is outside the mesh")
	fs.StringSliceVar(&o.advertise, "advertise-routes", nil,
		"`CIDR` of a network to be the router for, in user space; repeatable")
	fs.BoolVar(&o.beExitNode, "advertise-exit-node", false,
		"offer to carry what peers send to the Internet, in user space")
	fs.StringVar(&o.caFile, "ca-file", "", "`file` with further roots of trust for the server and relays, PEM")
}

func (o *localOptions) addFlags(fs *pflag.FlagSet) {
	fs.Var(o.proxies, "proxy", "`addr`ess of a SOCKS5 and HTTP proxy, host:port or unix:PATH; repeatable")
	fs.Var(&o.proxyAuth, "proxy-auth",
		"`user:pass`, or file:PATH with it, that proxies ask for; required unless all are on loopback or unix")
	fs.VarP(&o.forwards, "forward", "L",
		"local port carried to a mesh service, as `[bind:]port:host:hostport[/udp]`; repeatable")
	fs.Var(&o.serves, "serve", "port opened to the mesh, as `PORT=LOCAL[/udp]`; repeatable")
	fs.Var(&o.dns, "dns",
		"`addr`ess of a DNS server, UDP and TCP, that answers as the mesh does: [bind:]port, on loopback without bind; "+
			"it answers private addresses only")
	fs.IntVar(&o.associations, "max-associations", 0,
		"how many UDP associations the proxy serves at a time; further ones take the place of idle ones (256)")
}

func (o *trafficOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.meshOnly, "mesh-only", false, "refuse destinations outside the mesh instead of dialling them")
	fs.BoolVar(&o.relayOnly, "relay-only", false, "no direct UDP: relays carry everything")
	fs.Uint16Var(&o.udpPort, "udp-port", 0, "UDP `port` (0: the file's ListenPort, or any)")
	fs.DurationVar(&o.dialTimeout, "dial-timeout", node.DefaultDialTimeout,
		"how long a connection may take to be made")
	fs.Var(&o.congestion, "congestion-control",
		"how fast connections in the mesh send: `bbr`, which paces by a model of the path and does not take "+
			"random loss for congestion, or cubic (bbr)")
}

// check checks what concerns several flags.
func (o *nodeOptions) check() error {
	if err := o.checkNetwork(); err != nil {
		return err
	}
	if o.traffic.dialTimeout <= 0 {
		return cli.Usagef("--dial-timeout %v: want a positive duration", o.traffic.dialTimeout)
	}
	if o.local.associations < 0 {
		return cli.Usagef("--max-associations %d: want a positive number", o.local.associations)
	}
	if o.timeout <= 0 {
		return cli.Usagef("--timeout %v: want a positive duration", o.timeout)
	}
	if o.memory.Text != "" && o.memory.Value < tuning.MinMemory {
		return cli.Usagef("--memory %s is too little to work with, which is %s", o.memory.Text,
			node.FormatBytes(tuning.MinMemory))
	}
	for _, a := range o.local.proxies.Values {
		if !a.OnlyLocal() && o.local.proxyAuth.Value == (configs.ProxyAuth{}) {
			return cli.Usagef("--proxy %s can be reached from other machines, so --proxy-auth USER:PASS must be given", a)
		}
	}
	if twice, ok := repeated(o.local.proxies.Texts); ok {
		return cli.Usagef("--proxy %s is given twice", twice)
	}
	var ports []string
	for _, s := range o.local.serves.Values {
		network := "tcp"
		if s.Target.Network() == "udp" {
			network = "udp"
		}
		ports = append(ports, fmt.Sprintf("%d/%s", s.Port, network))
	}
	if twice, ok := repeated(ports); ok {
		return cli.Usagef("--serve: port %s of the mesh is given twice", twice)
	}
	return nil
}

// checkNetwork makes sure that exactly one network is named, and that all flags fit it.
func (o *nodeOptions) checkNetwork() error {
	switch {
	case o.join.url == "" && o.wireguard == "":
		return cli.Usagef("--control URL or --wireguard FILE must be given: the network to join")
	case o.join.url != "" && o.wireguard != "":
		return cli.Usagef("--control and --wireguard exclude each other")
	case o.wireguard != "":
		for flag, given := range o.onlyForControl() {
			if given {
				return cli.Usagef("--%s is only for --control", flag)
			}
		}
		return nil
	}
	u, err := url.Parse(o.join.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return cli.Usagef("--control %q is not a URL with http:// or https:// and a host", o.join.url)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return cli.Usagef("--control %q must be scheme://host[:port] alone, such as %s://%s", o.join.url, u.Scheme, u.Host)
	}
	for _, t := range o.join.tags {
		if !strings.HasPrefix(t, "tag:") || len(t) == len("tag:") {
			return cli.Usagef("--tags %q: a tag is written tag:NAME", t)
		}
	}
	_, err = o.routes()
	return err
}

// onlyForControl tells for each flag that is only for --control whether it was given.
func (o *nodeOptions) onlyForControl() map[string]bool {
	return map[string]bool{
		"authkey":             o.join.authKey.Text != "",
		"server-key":          o.join.serverKey.Text != "",
		"hostname":            o.join.hostname != "",
		"tags":                len(o.join.tags) > 0,
		"accept-routes":       o.join.acceptRoutes,
		"exit-node":           o.join.exitNode != "",
		"relay-only":          o.traffic.relayOnly,
		"ephemeral":           o.join.ephemeral,
		"advertise-routes":    len(o.join.advertise) > 0,
		"advertise-exit-node": o.join.beExitNode,
	}
}

// routes returns the networks that the node is a router for.
func (o *nodeOptions) routes() (routes []netip.Prefix, err error) {
	for _, text := range o.join.advertise {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return nil, cli.Usagef("--advertise-routes %q is not a network in CIDR form, such as 10.0.0.0/8", text)
		case p != p.Masked():
			return nil, cli.Usagef("--advertise-routes %s has bits set beyond its length; %s is meant", text, p.Masked())
		case p.Bits() == 0:
			return nil, cli.Usagef("--advertise-routes %s: --advertise-exit-node offers the way to everywhere", text)
		case meshaddr.TakenBy(p):
			return nil, cli.Usagef("--advertise-routes %s holds addresses of the mesh's own nodes, which no router may take",
				text)
		}
		routes = append(routes, p)
	}
	if o.join.beExitNode {
		routes = append(routes, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return routes, nil
}

// repeated finds a text that occurs more than once.
func repeated(texts []string) (string, bool) {
	seen := make(map[string]bool)
	for _, s := range texts {
		if seen[s] {
			return s, true
		}
		seen[s] = true
	}
	return "", false
}

// readyTimeout is the default of --timeout.
const readyTimeout = 60 * time.Second

// parseListener reads where the proxy of a node to start listens.
func parseListener(s string) (configs.Address, error) {
	if cli.IsProxyURL(s) {
		return configs.Address{},
			errors.New("a URL names the proxy of a running node; one to start wants host:port, :port, port or unix:PATH")
	}
	return configs.ParseProxyAddr(s)
}
