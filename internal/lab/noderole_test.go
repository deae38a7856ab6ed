//go:build lab

package lab

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// nodeOrder is a message to the role "node" on its standard input. The first one creates the node,
// and each further one is a new network map. The node is closed at the end of the input.
type nodeOrder struct {
	Key       key.NodePrivate
	Name      string
	Addresses []netip.Prefix
	Peers     []node.Peer
	Relays    relay.Map
	Home      int
	Proxy     string
	Serves    map[uint16]string // target addresses by TCP port in the mesh
	RelayOnly bool
}

// nodeAnswer is what the role writes once the node runs.
type nodeAnswer struct {
	Disco   key.DiscoPublic
	UDPPort uint16
}

func (o *nodeOrder) netmap() node.NetworkMap {
	return node.NetworkMap{Name: o.Name, Addresses: o.Addresses, Peers: o.Peers, Relays: o.Relays, Home: o.Home}
}

func (o *nodeOrder) config() node.Config {
	cfg := node.Config{
		Key:       o.Key,
		Map:       o.netmap(),
		RelayOnly: o.RelayOnly,
		Proxies:   []net.Addr{tcpAddr(o.Proxy)},
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for port, target := range o.Serves {
		cfg.Serves = append(cfg.Serves, node.Serve{Port: port, Target: tcpAddr(target)})
	}
	return cfg
}

type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }

func serveNode([]string) error {
	if err := checkUnprivileged(); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	var order nodeOrder
	if err := in.Decode(&order); err != nil {
		return err
	}
	n, err := node.New(order.config())
	if err != nil {
		return err
	}
	defer n.Close()
	if err := json.NewEncoder(os.Stdout).Encode(nodeAnswer{n.DiscoKey(), n.UDPPort()}); err != nil {
		return err
	}
	for {
		var next nodeOrder
		if in.Decode(&next) != nil {
			return nil
		}
		if err := n.SetMap(next.netmap()); err != nil {
			return err
		}
	}
}

// checkUnprivileged returns an error if this process is root or has any capability.
func checkUnprivileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	if os.Geteuid() == 0 || caps != [2]unix.CapUserData{} {
		return errors.New("the node runs with privileges")
	}
	return nil
}
