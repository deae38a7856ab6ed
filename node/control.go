package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"ginnel/control"
	"ginnel/key"
)

// Control makes a node a member of a network that a coordination server keeps: the map comes from
// there, and the node tells there what it knows of itself.
type Control struct {
	URL      string   // of the server; required
	AuthKey  string   // a pre-auth key; empty: somebody has to approve the node, see Login
	Identity Identity // of an earlier run; what is zero is made

	// ServerKey is the only key that the server may have. Zero: the one of Identity, or if that has
	// none the one that the server gives when it is first asked, over https or within private
	// networks.
	ServerKey key.MachinePublic

	// Save keeps a new identity before it is used. Nil: it is lost with the process.
	Save func(Identity) error

	// SaveMap keeps the network map, and LastMap returns what SaveMap was given last, or nothing: the
	// node starts on it while the server is away. Nil: it does not.
	SaveMap func([]byte) error
	LastMap func() ([]byte, error)

	// Login is told of the page on which the node can be approved.
	Login func(url string)

	Hostname  string   // as proposed to the server
	Tags      []string // asked for, each with "tag:" before it
	Ephemeral bool     // the server forgets the node when it leaves

	AcceptRoutes bool // use the subnets that peers are routers for
	// AdvertiseRoutes are networks that this node offers to be the router for; 0.0.0.0/0 and ::/0
	// together make it an exit node. The server has to approve them.
	AdvertiseRoutes []netip.Prefix

	ExitNode string // name or address of the peer through which everything else leaves; empty: none
}

// Identity is what a server and other nodes know a node by. It outlives the process.
type Identity struct {
	URL     string             `json:"url"` // of the server that the rest was made for
	Machine key.MachinePrivate `json:"machine_key"`
	Node    key.NodePrivate    `json:"node_key"`
	Next    key.NodePrivate    `json:"next_node_key,omitzero"` // takes the place of Node, which has expired, once the server accepts it
	Server  key.MachinePublic  `json:"server_key"`
}

// ErrJoinRefused is what Run returns, wrapped with the server's reason, if the server does not let
// the node in.
var ErrJoinRefused = errors.New("the coordination server does not let this node in")

// ErrServerKeyChanged is what Run returns, wrapped with the two keys, if the server has another key
// than the one that was pinned or seen first. Nothing was said to it. A node that has a network map
// goes on with that instead.
var ErrServerKeyChanged = errors.New("the coordination server has another key than the one that is known")

// ErrControlUnreachable is a reason of not being ready: there has been no conversation with the
// server yet.
var ErrControlUnreachable = control.ErrUnreachable

// ErrServerUnprotected is what New returns for a server whose key is not known and could not be
// asked for safely.
var ErrServerUnprotected = control.ErrUnprotected

// prepare completes the identity, and keeps it if it is new.
func (c *Control) prepare() error {
	id := &c.Identity
	if id.URL != c.URL { // another server knows nothing of us, and need not learn that we are known elsewhere
		*id = Identity{URL: c.URL}
	}
	if err := control.CheckServer(c.URL, cmp.Or(c.ServerKey, id.Server)); err != nil {
		return err
	}
	known := c.ServerKey.IsZero() || id.Server == c.ServerKey
	if !known {
		id.Server = c.ServerKey
	}
	if known && !id.Machine.IsZero() && !id.Node.IsZero() {
		return nil
	}
	if id.Machine.IsZero() {
		id.Machine = key.NewMachinePrivate()
	}
	if id.Node.IsZero() {
		id.Node = key.NewNodePrivate()
	}
	return c.save()
}

// checkControl completes the configuration of a node that has a server.
func (c *Config) checkControl() error {
	if c.Control.URL == "" {
		return errors.New("node: Config.Control.URL is missing")
	}
	own := *c.Control // the caller's is not ours to change
	if err := own.prepare(); err != nil {
		return err
	}
	c.Control, c.Key, c.Map = &own, own.Identity.Node, NetworkMap{Mesh: true}
	return nil
}

func (c *Control) save() error {
	if c.Save == nil {
		return nil
	}
	if err := c.Save(c.Identity); err != nil {
		return fmt.Errorf("keeping the node's identity: %w", err)
	}
	return nil
}

// newControlClient makes the client for the server. What it sends leaves by the host's network, by
// the proxy of the environment if there is one, and never through the mesh.
func (n *Node) newControlClient() (*control.Client, error) {
	c := n.cfg.Control
	return control.NewClient(control.ClientConfig{
		URL:         c.URL,
		MachineKey:  c.Identity.Machine,
		ServerKey:   c.Identity.Server,
		DialContext: n.dialControl,
		TLS:         n.controlTLS(),
		Ping:        n.controlPing,
		Version:     n.cfg.Version,
		Log:         n.log,
	})
}

// controlTLS trusts what is trusted for relays too.
func (n *Node) controlTLS() *tls.Config {
	if n.cfg.Roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: n.cfg.Roots}
}

func (n *Node) dialControl(ctx context.Context, network, addr string) (net.Conn, error) {
	scheme, _, _ := strings.Cut(n.cfg.Control.URL, ":") // by which the environment chooses HTTP_PROXY or HTTPS_PROXY
	proxy, err := n.outboundProxy(&url.URL{Scheme: scheme, Host: addr})
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		return n.dialer().Dial(ctx, proxy, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// controlPing measures the way to a peer for the server.
func (n *Node) controlPing(ctx context.Context, kind string, ip netip.Addr) control.PingResponse {
	r := control.PingResponse{Type: kind, IP: ip.String(), NodeIP: ip.String()}
	if kind != "disco" && kind != "TSMP" {
		r.Err = "this kind of ping is not supported"
		return r
	}
	result, err := n.Ping(ctx, ip.String())
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.NodeName, r.LatencySeconds, r.Endpoint = result.Peer, result.RTTMS/1000, result.Endpoint
	if result.Path == PathRelay {
		r.DERPRegionCode = result.Relay
	}
	return r
}
