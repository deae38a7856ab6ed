package main

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/internal/egress"
	"ginnel/internal/meshaddr"
	"ginnel/key"
	"ginnel/node"
	"ginnel/tuning"
)

// nodeFlags are the flags of commands that run a node.
type nodeFlags struct {
	config       string
	control      string
	serverKey    parsed[key.MachinePublic]
	authKey      parsed[secretText]
	hostname     string
	tags         []string
	ephemeral    bool
	acceptRoutes bool
	exitNode     string
	advertise    []string
	beExitNode   bool
	caFile       string
	wireguard    string
	state        string
	proxies      *parsedList[configs.Address]
	proxyAuth    parsed[configs.ProxyAuth]
	forwards     parsedList[configs.Forward]
	serves       parsedList[configs.Serve]
	dns          parsed[configs.Address]
	waitFor      parsedList[string]
	timeout      time.Duration
	meshOnly     bool
	relayOnly    bool
	udpPort      uint16
	dialTimeout  time.Duration
	associations int
	memory       parsed[int64]
	tuning       parsed[tuning.Mode]
	congestion   parsed[node.Congestion]
	log          logFlags
	userProxy    net.Addr         // of Config.UserProxy: set by run, not by a flag
	showLogin    func(url string) // instead of on standard error; nil: there
}

// secretText is a secret that was given as it is or by file:PATH.
type secretText string

// Plain returns the secret.
func (s secretText) Plain() string { return string(s) }

func parseSecret(s string) (secretText, error) {
	text, err := configs.Secret(s)
	if err == nil && text == "" {
		err = errors.New("(not shown): it is empty")
	}
	return secretText(text), err
}

// newNodeFlags gives the proxy its default.
func newNodeFlags(proxy string) *nodeFlags {
	return &nodeFlags{
		proxies:   preset(&parsedList[configs.Address]{parse: parseListener}, proxy),
		serverKey: parsed[key.MachinePublic]{parse: key.ParseMachinePublic, typ: "key"},
		authKey:   parsed[secretText]{parse: parseSecret, typ: "key", secret: true},
		proxyAuth: parsed[configs.ProxyAuth]{parse: configs.ParseProxyAuth, typ: "user:pass", secret: true},
		forwards:  parsedList[configs.Forward]{parse: configs.ParseForward},
		serves:    parsedList[configs.Serve]{parse: configs.ParseServe},
		dns:       parsed[configs.Address]{parse: configs.ParseDNSAddr, typ: "addr"},
		waitFor:   parsedList[string]{parse: parseTarget},
		memory:    parsed[int64]{parse: configs.ParseSize, typ: "size"},
		tuning:    parsed[tuning.Mode]{parse: tuning.ParseMode, typ: "on"},

		congestion: parsed[node.Congestion]{parse: node.ParseCongestion, typ: "name"},
	}
}

func (f *nodeFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&f.control, "control", "", "`URL` of the coordination server of the network to join")
	fs.Var(&f.serverKey, "server-key", "`mkey:…` that the coordination server must have (the one that it shows first, over https)")
	fs.Var(&f.authKey, "authkey", "pre-auth `key`, or file:PATH with it; without one somebody has to approve the node")
	fs.StringVar(&f.hostname, "hostname", "", "`name` of the node in the network (this host's)")
	fs.StringSliceVar(&f.tags, "tags", nil, "`tag`s to ask for, each as tag:NAME; repeatable")
	fs.BoolVar(&f.ephemeral, "ephemeral", false, "leave no trace: state in memory, and the server forgets the node")
	fs.BoolVar(&f.acceptRoutes, "accept-routes", false, "use the subnets that peers are routers for")
	fs.StringVar(&f.exitNode, "exit-node", "", "`peer` through which what is outside the mesh is reached")
	fs.StringSliceVar(&f.advertise, "advertise-routes", nil, "`CIDR` of a network to be the router for, in user space; repeatable")
	fs.BoolVar(&f.beExitNode, "advertise-exit-node", false, "offer to carry what peers send to the Internet, in user space")
	fs.StringVar(&f.caFile, "ca-file", "", "`file` with further roots of trust for the server and relays, PEM")
	fs.StringVar(&f.wireguard, "wireguard", "", "wg-quick `file` of the network to join, without a server")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory, which is closed to other users (0700); \"mem:\" leaves nothing on disk ($XDG_STATE_HOME/ginnel or ~/.local/state/ginnel)")
	fs.Var(f.proxies, "proxy", "`addr`ess of a SOCKS5 and HTTP proxy, host:port or unix:PATH; repeatable")
	fs.Var(&f.proxyAuth, "proxy-auth", "`user:pass`, or file:PATH with it, that proxies ask for; required unless all are on loopback or unix")
	fs.VarP(&f.forwards, "forward", "L", "local port carried to a mesh service, as `[bind:]port:host:hostport[/udp]`; repeatable")
	fs.Var(&f.serves, "serve", "port opened to the mesh, as `PORT=LOCAL[/udp]`; repeatable")
	fs.Var(&f.dns, "dns", "`addr`ess of a DNS server, UDP and TCP, that answers as the mesh does: [bind:]port, on loopback without bind; it answers private addresses only")
	fs.Var(&f.waitFor, "wait-for", "`host[:port]` that must answer before the node is ready: to a ping, or to a connection; repeatable")
	fs.DurationVar(&f.timeout, "timeout", readyTimeout, "how long to wait for the node to be ready")
	fs.BoolVar(&f.meshOnly, "mesh-only", false, "refuse destinations outside the mesh instead of dialling them")
	fs.BoolVar(&f.relayOnly, "relay-only", false, "no direct UDP: relays carry everything")
	fs.Uint16Var(&f.udpPort, "udp-port", 0, "UDP `port` (0: the file's ListenPort, or any)")
	fs.DurationVar(&f.dialTimeout, "dial-timeout", node.DefaultDialTimeout, "how long a connection may take to be made")
	fs.IntVar(&f.associations, "max-associations", 0, "how many UDP associations the proxy serves at a time; further ones take the place of idle ones (256)")
	fs.Var(&f.memory, "memory", "`size` of memory that buffers and the runtime are sized by; connections wait and become slower rather than take much more (half of the control group's limit, a quarter of the machine's memory, at most 640MiB)")
	fs.Var(&f.tuning, "tuning", "`on` lets the node choose its number of processors, poll the network and give memory back; "+
		"off leaves the Go runtime alone, except for the memory budget (on)")
	fs.Var(&f.congestion, "congestion-control", "how fast connections in the mesh send: `bbr`, which paces by a model of the path and does not take random loss for congestion, or cubic (bbr)")
	f.log.add(fs)
	f.log.addConnections(fs)
}

// check looks at what single flags cannot know.
func (f *nodeFlags) check() error {
	if err := f.checkNetwork(); err != nil {
		return err
	}
	if f.dialTimeout <= 0 {
		return usagef("--dial-timeout %v: a positive duration is wanted", f.dialTimeout)
	}
	if f.associations < 0 {
		return usagef("--max-associations %d: a positive number is wanted", f.associations)
	}
	if f.timeout <= 0 {
		return usagef("--timeout %v: a positive duration is wanted", f.timeout)
	}
	if f.memory.text != "" && f.memory.value < tuning.MinMemory {
		return usagef("--memory %s is too little to work with, which is %s", f.memory.text, node.FormatBytes(tuning.MinMemory))
	}
	for _, a := range f.proxies.values {
		if !a.OnlyLocal() && f.proxyAuth.value == (configs.ProxyAuth{}) {
			return usagef("--proxy %s can be reached from other machines, so --proxy-auth USER:PASS must be given", a)
		}
	}
	if twice, ok := repeated(f.proxies.texts); ok {
		return usagef("--proxy %s is given twice", twice)
	}
	var ports []string
	for _, s := range f.serves.values {
		network := "tcp"
		if s.Target.Network() == "udp" {
			network = "udp"
		}
		ports = append(ports, fmt.Sprintf("%d/%s", s.Port, network))
	}
	if twice, ok := repeated(ports); ok {
		return usagef("--serve: port %s of the mesh is given twice", twice)
	}
	return nil
}

// checkNetwork makes sure that there is one network to join, and that the flags are for that kind.
func (f *nodeFlags) checkNetwork() error {
	switch {
	case f.control == "" && f.wireguard == "":
		return usagef("--control URL or --wireguard FILE must be given: the network to join")
	case f.control != "" && f.wireguard != "":
		return usagef("--control and --wireguard exclude each other")
	case f.wireguard != "":
		for flag, given := range map[string]bool{"authkey": f.authKey.text != "", "server-key": f.serverKey.text != "", "hostname": f.hostname != "", "tags": len(f.tags) > 0,
			"accept-routes": f.acceptRoutes, "exit-node": f.exitNode != "", "relay-only": f.relayOnly, "ephemeral": f.ephemeral,
			"advertise-routes": len(f.advertise) > 0, "advertise-exit-node": f.beExitNode} {
			if given {
				return usagef("--%s is only for --control", flag)
			}
		}
		return nil
	}
	u, err := url.Parse(f.control)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return usagef("--control %q is not a URL with http:// or https:// and a host", f.control)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return usagef("--control %q must be scheme://host[:port] alone, such as %s://%s", f.control, u.Scheme, u.Host)
	}
	for _, t := range f.tags {
		if !strings.HasPrefix(t, "tag:") || len(t) == len("tag:") {
			return usagef("--tags %q: a tag is written tag:NAME", t)
		}
	}
	_, err = f.routes()
	return err
}

// routes are the networks to be the router for.
func (f *nodeFlags) routes() (routes []netip.Prefix, err error) {
	for _, text := range f.advertise {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return nil, usagef("--advertise-routes %q is not a network in CIDR form, such as 10.0.0.0/8", text)
		case p != p.Masked():
			return nil, usagef("--advertise-routes %s has bits set beyond its length; %s is meant", text, p.Masked())
		case p.Bits() == 0:
			return nil, usagef("--advertise-routes %s: --advertise-exit-node offers the way to everywhere", text)
		case meshaddr.TakenBy(p):
			return nil, usagef("--advertise-routes %s holds addresses of the mesh's own nodes, which no router may take", text)
		}
		routes = append(routes, p)
	}
	if f.beExitNode {
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

// openState opens the state directory. A node whose identity is in a file or in memory needs none
// but to be found, so it makes do without if the default place cannot be used.
func (f *nodeFlags) openState(p program, log *slog.Logger) (*stateDir, error) {
	if f.state != "" {
		return openState(f.state)
	}
	dir := defaultState(p)
	if dir == "" {
		if f.control != "" && !f.ephemeral {
			return nil, usagef("--state DIR must be given, or --ephemeral: neither XDG_STATE_HOME nor HOME is set")
		}
		return openState(memState)
	}
	state, err := openState(dir)
	if _, unusable := errors.AsType[*fs.PathError](err); unusable && (f.control == "" || f.ephemeral) {
		warnNoState(log, err)
		return openState(memState)
	}
	return state, err
}

func warnNoState(log *slog.Logger, err error) {
	log.Warn("no state directory: 'ginnel status' and 'ginnel ping' need --proxy", "err", err)
}

// nodeConfig translates flags, but for what is about the network.
func (f *nodeFlags) nodeConfig(p program, log *slog.Logger) (node.Config, error) {
	cfg := node.Config{
		Version:       buildVersion(),
		UDPPort:       f.udpPort,
		RelayOnly:     f.relayOnly,
		MeshOnly:      f.meshOnly,
		WaitFor:       f.waitFor.values,
		DialTimeout:   f.dialTimeout,
		Associations:  f.associations,
		Congestion:    f.congestion.value,
		Token:         newToken(),
		OutboundProxy: egress.FromEnvironment(p.getenv),
		Log:           log,
		ConnLog:       f.log.connLogger(log),
		UserProxy:     f.userProxy,
	}
	var err error
	if cfg.Roots, err = f.roots(); err != nil {
		return cfg, err
	}
	for _, a := range f.proxies.values {
		cfg.Proxies = append(cfg.Proxies, absolute(a))
	}
	if auth := f.proxyAuth.value; auth != (configs.ProxyAuth{}) {
		own := configs.ProxyAuth{User: tokenUser, Password: cfg.Token}
		cfg.ProxyAuth = anyPassword(checkPassword(auth), checkPassword(own))
	}
	for _, fw := range f.forwards.values {
		cfg.Forwards = append(cfg.Forwards, node.Forward{Listen: fw.Listen, Target: fw.Target.String()})
	}
	if f.dns.text != "" {
		cfg.DNS = f.dns.value
	}
	for _, s := range f.serves.values {
		cfg.Serves = append(cfg.Serves, node.Serve{Port: s.Port, Target: s.Target})
	}
	return cfg, nil
}

// roots are the system's and those of --ca-file; nil is the system's.
func (f *nodeFlags) roots() (*x509.CertPool, error) {
	if f.caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(f.caFile)
	if err != nil {
		return nil, usagef("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // the file's alone
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("--ca-file %s holds no certificate", f.caFile)
	}
	return pool, nil
}

// absolute is the address by which others find a listener, whatever directory they are in.
func absolute(a configs.Address) net.Addr {
	if path, err := filepath.Abs(a.String()); a.Network() == "unix" && err == nil {
		return &net.UnixAddr{Net: "unix", Name: path}
	}
	return a
}

// checkPassword compares in constant time.
func checkPassword(want configs.ProxyAuth) func(user, password string) bool {
	return func(user, password string) bool {
		u := subtle.ConstantTimeCompare([]byte(user), []byte(want.User))
		p := subtle.ConstantTimeCompare([]byte(password), []byte(want.Password))
		return u&p == 1
	}
}

// tokenUser is the name under which commands use a proxy that wants a password; the token of the
// node's API is theirs.
const tokenUser = "ginnel-token"

func anyPassword(a, b func(user, password string) bool) func(user, password string) bool {
	return func(user, password string) bool {
		first, second := a(user, password), b(user, password)
		return first || second
	}
}

// wireGuardMap makes the network map that a wg-quick file amounts to.
func wireGuardMap(wg *configs.WireGuard) node.NetworkMap {
	m := node.NetworkMap{Addresses: wg.Addresses, DNS: node.DNS{Servers: node.Nameservers(wg.DNS...), Search: wg.Search}}
	for _, p := range wg.Peers {
		m.Peers = append(m.Peers, node.Peer{
			Key:          p.PublicKey,
			Addresses:    p.AllowedIPs,
			Plain:        true,
			Endpoint:     node.Endpoint{Host: p.Endpoint.Host, Port: p.Endpoint.Port},
			PresharedKey: p.PresharedKey,
			Keepalive:    p.PersistentKeepalive,
		})
	}
	return m
}
