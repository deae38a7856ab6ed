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

// Control makes a node a member of the network of a coordination server: the node receives its map
// from the server, and reports its endpoints and home relay there.
type Control struct {
	URL      string   // of the server; required
	AuthKey  string   // a pre-auth key; empty: a person has to approve the node, see Login
	Identity Identity // of an earlier run; keys that are zero are generated

	// ServerKey is the only key that the server may have. Zero: the key in Identity or, if that is
	// zero too, the key that the server sends at first contact, over https or within private
	// networks.
	ServerKey key.MachinePublic

	// Save stores a new identity before it is used. Nil: the identity is lost with the process.
	Save func(Identity) error

	// SaveMap stores the network map, and LastMap returns the last one stored, or nothing. The node
	// starts with it if the server cannot be reached. Nil: it does not.
	SaveMap func([]byte) error
	LastMap func() ([]byte, error)

	// Login is called with the page on which the node can be approved. It may be nil.
	Login func(url string)

	Hostname  string   // proposed to the server, which may choose another
	Tags      []string // requested, each with the prefix "tag:"
	Ephemeral bool     // the server forgets the node when it leaves

	AcceptRoutes bool // use the subnets that peers are routers for
	// AdvertiseRoutes are networks that this node offers to be the router for; 0.0.0.0/0 and ::/0
	// together make it an exit node. The server has to approve them.
	AdvertiseRoutes []netip.Prefix

	ExitNode string // name or address of the peer through which traffic to the Internet leaves; empty: none
}

// Identity identifies a node to its server and to other nodes. It outlives the process.
type Identity struct {
	URL     string             `json:"url"` // of the server for which the keys were made
	Machine key.MachinePrivate `json:"machine_key"`
	Node    key.NodePrivate    `json:"node_key"`
	Next    key.NodePrivate    `json:"next_node_key,omitzero"` // replaces the expired Node once the server accepts it
	Server  key.MachinePublic  `json:"server_key"`
}

// ErrJoinRefused is returned by Run, wrapped with the server's reason, if the server refuses the
// node.
var ErrJoinRefused = errors.New("the coordination server does not let this node in")

// ErrServerKeyChanged is returned by Run, wrapped with the two keys, if the server has another key
// than the one that was pinned or seen first. The node has sent it nothing. A node that has a
// network map goes on with that map instead.
var ErrServerKeyChanged = errors.New("the coordination server has another key than the one that is known")

// ErrControlUnreachable is wrapped by the error of NotReady if the server was never reached.
var ErrControlUnreachable = control.ErrUnreachable

// ErrServerUnprotected is returned by New for a server whose key is not known and cannot be
// requested over a protected channel.
var ErrServerUnprotected = control.ErrUnprotected

// prepare completes the identity, and saves it if it has changed.
func (c *Control) prepare() error {
	id := &c.Identity
	if id.URL != c.URL { // the keys are not shown to another server, which could tell that they belong to one node
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

// checkControl completes the configuration of a node with a coordination server.
func (c *Config) checkControl() error {
	if c.Control.URL == "" {
		return errors.New("node: Config.Control.URL is missing")
	}
	own := *c.Control // a copy, because the caller keeps its own
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
		return fmt.Errorf("saving the node's identity: %w", err)
	}
	return nil
}

// controlClient returns a client for the coordination server. Its connections leave by the host's
// network, through the proxy of the environment if there is one, and never through the mesh. ping
// answers the server's pings; nil refuses them.
func (h *hostDialer) controlClient(c *Control, ping pingFunc) (*control.Client, error) {
	return control.NewClient(control.ClientConfig{
		URL:         c.URL,
		MachineKey:  c.Identity.Machine,
		ServerKey:   c.Identity.Server,
		DialContext: h.dialControl,
		TLS:         h.controlTLS(),
		Ping:        ping,
		Version:     h.cfg.Version,
		Log:         h.cfg.log(),
	})
}

// controlTLS trusts the same certificates as for relays.
func (h *hostDialer) controlTLS() *tls.Config {
	if h.cfg.Roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: h.cfg.Roots}
}

func (h *hostDialer) dialControl(ctx context.Context, network, addr string) (net.Conn, error) {
	scheme, _, _ := strings.Cut(h.cfg.Control.URL, ":") // by which the environment chooses HTTP_PROXY or HTTPS_PROXY
	proxy, err := h.proxyFor(&url.URL{Scheme: scheme, Host: addr})
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		return h.egress().Dial(ctx, proxy, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// pingFunc answers a ping of the coordination server.
type pingFunc = func(ctx context.Context, kind string, ip netip.Addr) control.PingResponse

// controlPing pings a peer for the server.
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
