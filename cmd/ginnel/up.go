package main

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ginnel/configs"
	"ginnel/internal/egress"
	"ginnel/node"
)

// upFlags are the flags of up.
type upFlags struct {
	config      string
	wireguard   string
	state       string
	proxies     *parsedList[configs.Address]
	proxyAuth   parsed[configs.ProxyAuth]
	forwards    parsedList[configs.Forward]
	serves      parsedList[configs.Serve]
	meshOnly    bool
	udpPort     uint16
	dialTimeout time.Duration
	log         logFlags
}

func newUp(p program) *cobra.Command {
	f := &upFlags{
		proxies:   preset(&parsedList[configs.Address]{parse: configs.ParseProxyAddr}, "127.0.0.1:1080"),
		proxyAuth: parsed[configs.ProxyAuth]{parse: configs.ParseProxyAuth, typ: "user:pass", secret: true},
		forwards:  parsedList[configs.Forward]{parse: configs.ParseForward},
		serves:    parsedList[configs.Serve]{parse: configs.ParseServe},
	}
	cmd := &cobra.Command{
		Use:   "up --wireguard FILE",
		Short: "Join and serve the proxies until SIGTERM or SIGINT",
		Long: `up joins the network that a wg-quick file describes, with no rights at all, and
offers it as a SOCKS5 and HTTP proxy. The file is used as it is; what would
change the host (PostUp, Table, FwMark) is left out with a warning.

Nothing comes in from the mesh unless --serve opens it, and the proxy is open to
this machine alone unless --proxy-auth protects it.`,
		Example: `  ginnel up --wireguard wg0.conf
  ginnel up --wireguard wg0.conf --proxy 127.0.0.1:8080 -L 5432:db.internal:5432
  ginnel up --wireguard wg0.conf --serve 80=8080 --mesh-only
  GINNEL_WIREGUARD=wg0.conf GINNEL_PROXY=unix:/tmp/mesh.sock ginnel up
  ginnel up --config up.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd, f, p) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&f.wireguard, "wireguard", "", "wg-quick `file` of the network to join")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory, \"mem:\" to leave nothing on disk ($XDG_STATE_HOME/ginnel or ~/.local/state/ginnel)")
	fs.Var(f.proxies, "proxy", "`addr`ess of a SOCKS5 and HTTP proxy, host:port or unix:PATH; repeatable")
	fs.Var(&f.proxyAuth, "proxy-auth", "`user:pass`, or file:PATH with it, that proxies ask for; required unless all are on loopback or unix")
	fs.VarP(&f.forwards, "forward", "L", "local port carried to a mesh service, as `[bind:]port:host:hostport[/udp]`; repeatable")
	fs.Var(&f.serves, "serve", "port opened to the mesh, as `PORT=LOCAL[/udp]`; repeatable")
	fs.BoolVar(&f.meshOnly, "mesh-only", false, "refuse destinations outside the mesh instead of dialling them")
	fs.Uint16Var(&f.udpPort, "udp-port", 0, "UDP `port` (0: the file's ListenPort, or any)")
	fs.DurationVar(&f.dialTimeout, "dial-timeout", node.DefaultDialTimeout, "how long a connection may take to be made")
	f.log.add(fs)
	f.log.addConnections(fs)
	return cmd
}

func runUp(cmd *cobra.Command, f *upFlags, p program) error {
	if f.wireguard == "" {
		return usagef("--wireguard FILE must be given: the network to join")
	}
	if err := f.check(); err != nil {
		return err
	}
	wg, err := configs.LoadWireGuard(f.wireguard)
	if err != nil {
		return usageError{err}
	}
	log := f.log.logger(p.stderr)
	for _, name := range unknownEnvironment(cmd, p) {
		log.Warn("environment variable is not a setting", "name", name)
	}
	for _, w := range wg.Warnings {
		log.Warn("wireguard file", "warning", w.String())
	}
	state, err := f.openState(p, log)
	if err != nil {
		return err
	}
	defer state.close()
	cfg := f.nodeConfig(wg, p, log)
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	s := n.Status()
	if err := state.publish(running{PID: os.Getpid(), Proxies: s.Proxies, Token: cfg.Token}); err != nil {
		if f.state != "" {
			return err
		}
		warnNoState(log, err)
	}
	log.Info("up", "addresses", s.Self.Addresses, "proxies", s.Proxies, "peers", len(s.Peers), "udp_port", n.UDPPort())
	err = n.Run(cmd.Context())
	log.Info("down")
	return err
}

// check looks at what single flags cannot know.
func (f *upFlags) check() error {
	if f.dialTimeout <= 0 {
		return usagef("--dial-timeout %v: a positive duration is wanted", f.dialTimeout)
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

// openState opens the state directory. A node without identity of its own needs none, so it makes do without if the
// default place cannot be used.
func (f *upFlags) openState(p program, log *slog.Logger) (*stateDir, error) {
	if f.state != "" {
		return openState(f.state)
	}
	dir := defaultState(p)
	if dir == "" {
		return openState(memState)
	}
	state, err := openState(dir)
	if _, unusable := errors.AsType[*fs.PathError](err); unusable {
		warnNoState(log, err)
		return openState(memState)
	}
	return state, err
}

func warnNoState(log *slog.Logger, err error) {
	log.Warn("no state directory: 'ginnel status' and 'ginnel ping' need --proxy", "err", err)
}

// nodeConfig translates flags and file.
func (f *upFlags) nodeConfig(wg *configs.WireGuard, p program, log *slog.Logger) node.Config {
	cfg := node.Config{
		Key:           wg.PrivateKey,
		Map:           wireGuardMap(wg),
		MTU:           wg.MTU,
		UDPPort:       f.udpPort,
		MeshOnly:      f.meshOnly,
		DialTimeout:   f.dialTimeout,
		Token:         newToken(),
		OutboundProxy: egress.FromEnvironment(p.getenv),
		Log:           log,
		ConnLog:       f.log.connLogger(log),
	}
	if cfg.UDPPort == 0 {
		cfg.UDPPort = wg.ListenPort
	}
	for _, a := range f.proxies.values {
		cfg.Proxies = append(cfg.Proxies, absolute(a))
	}
	if auth := f.proxyAuth.value; auth != (configs.ProxyAuth{}) {
		cfg.ProxyAuth = checkPassword(auth)
	}
	for _, fw := range f.forwards.values {
		cfg.Forwards = append(cfg.Forwards, node.Forward{Listen: fw.Listen, Target: fw.Target.String()})
	}
	for _, s := range f.serves.values {
		cfg.Serves = append(cfg.Serves, node.Serve{Port: s.Port, Target: s.Target})
	}
	return cfg
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

// wireGuardMap makes the network map that a wg-quick file amounts to.
func wireGuardMap(wg *configs.WireGuard) node.NetworkMap {
	m := node.NetworkMap{Addresses: wg.Addresses, DNS: node.DNS{Servers: wg.DNS, Search: wg.Search}}
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
