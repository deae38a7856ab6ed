package nodecmd

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/nodeapi"
	"ginnel/internal/cli/statedir"
	"ginnel/internal/egress"
	"ginnel/node"
)

// nodeConfig returns the configuration of the node without the network.
func (o *nodeOptions) nodeConfig(p cli.Program, log *slog.Logger) (node.Config, error) {
	cfg := node.Config{
		Version:       p.BuildVersion(),
		UDPPort:       o.traffic.udpPort,
		RelayOnly:     o.traffic.relayOnly,
		MeshOnly:      o.traffic.meshOnly,
		WaitFor:       o.waitFor.Values,
		DialTimeout:   o.traffic.dialTimeout,
		Associations:  o.local.associations,
		Congestion:    o.traffic.congestion.Value,
		Token:         nodeapi.NewToken(),
		OutboundProxy: egress.FromEnvironment(p.Getenv),
		Log:           log,
		ConnLog:       o.log.ConnLogger(log),
		UserProxy:     o.local.userProxy,
	}
	var err error
	if cfg.Roots, err = rootsWith(o.join.caFile); err != nil {
		return cfg, err
	}
	for _, a := range o.local.proxies.Values {
		cfg.Proxies = append(cfg.Proxies, absolute(a))
	}
	if auth := o.local.proxyAuth.Value; auth != (configs.ProxyAuth{}) {
		own := configs.ProxyAuth{User: nodeapi.ProxyUser, Password: cfg.Token}
		cfg.ProxyAuth = anyPassword(checkPassword(auth), checkPassword(own))
	}
	for _, fw := range o.local.forwards.Values {
		cfg.Forwards = append(cfg.Forwards, node.Forward{Listen: fw.Listen, Target: fw.Target.String()})
	}
	if o.local.dns.Text != "" {
		cfg.DNS = o.local.dns.Value
	}
	for _, s := range o.local.serves.Values {
		cfg.Serves = append(cfg.Serves, node.Serve{Port: s.Port, Target: s.Target})
	}
	return cfg, nil
}

// rootsWith returns the roots of trust of the system and those in the file of --ca-file. It returns
// nil, which stands for the system's roots, if there is no such file.
func rootsWith(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, cli.Usagef("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // only the file's
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, cli.Usagef("--ca-file %s holds no certificate", caFile)
	}
	return pool, nil
}

// absolute returns a with an absolute path if it is a unix socket, so that commands find it from
// any directory.
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

func anyPassword(a, b func(user, password string) bool) func(user, password string) bool {
	return func(user, password string) bool {
		first, second := a(user, password), b(user, password)
		return first || second
	}
}

// wireGuardMap returns the network map for a wg-quick file.
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

// openState opens the state directory. A node whose identity is in a file or in memory needs it
// only to be found by commands. Such a node starts without one if the default directory cannot be
// used.
func (o *nodeOptions) openState(p cli.Program, log *slog.Logger) (*statedir.Dir, error) {
	if o.state != "" {
		return statedir.Open(o.state)
	}
	dir := statedir.Default(p)
	if dir == "" {
		if o.join.url != "" && !o.join.ephemeral {
			return nil, cli.Usagef("--state DIR must be given, or --ephemeral: neither XDG_STATE_HOME nor HOME is set")
		}
		return statedir.Open(statedir.Memory)
	}
	state, err := statedir.Open(dir)
	if _, unusable := errors.AsType[*fs.PathError](err); unusable && (o.join.url == "" || o.join.ephemeral) {
		warnNoState(log, err)
		return statedir.Open(statedir.Memory)
	}
	return state, err
}

func warnNoState(log *slog.Logger, err error) {
	log.Warn("no state directory: 'ginnel status' and 'ginnel ping' need --proxy", "err", err)
}
