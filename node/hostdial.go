package node

import (
	"context"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"slices"

	"ginnel/internal/egress"
)

// Destinations outside the mesh: dialled from the host, by the proxy of its environment, or not at all.

// policyError is a refusal by this node's own settings. It is fs.ErrPermission.
type policyError string

func (e policyError) Error() string { return "refused: " + string(e) }
func (e policyError) Unwrap() error { return fs.ErrPermission }

// dialHost connects to addr, host:port, on the host's network. The host is not in the mesh.
func (n *Node) dialHost(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := n.mayLeave(addr); err != nil {
		return nil, err
	}
	if network == "tcp" {
		proxy, err := n.outboundProxy(&url.URL{Scheme: "https", Host: addr})
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			return n.dialer().Dial(ctx, proxy, addr)
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// mayLeave says no for a node that keeps to the mesh, and protects what listens on this machine only from clients on
// others.
func (n *Node) mayLeave(addr string) error {
	if n.cfg.MeshOnly {
		return policyError("it is outside the mesh, and --mesh-only is set")
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(host); err == nil && n.guardsHost() && hostsOnly(a) {
		return policyError("it is this machine's own, and the proxy serves others too")
	}
	return nil
}

// guardsHost reports whether clients may be on other machines.
func (n *Node) guardsHost() bool {
	return slices.ContainsFunc(n.cfg.Proxies, func(a net.Addr) bool {
		if a.Network() == "unix" {
			return false
		}
		host, _, _ := net.SplitHostPort(a.String())
		ip, err := netip.ParseAddr(host)
		return host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}

// hostsOnly reports whether a means something else, or something private, on each machine.
func hostsOnly(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
}

// leavesToProxy reports whether a name is left to the proxy of the environment to resolve: often nobody else can.
func (n *Node) leavesToProxy(network, host string) bool {
	if network != "tcp" || n.cfg.MeshOnly || len(n.netmap.Load().DNS.Servers) > 0 || len(n.routes.Load().names[hostName(host)]) > 0 {
		return false
	}
	proxy, err := n.outboundProxy(&url.URL{Scheme: "https", Host: host})
	return err == nil && proxy != nil
}

// outboundProxy is Config.OutboundProxy without the node's own proxies, which would lead back here.
func (n *Node) outboundProxy(u *url.URL) (*url.URL, error) {
	if n.cfg.OutboundProxy == nil {
		return nil, nil
	}
	proxy, err := n.cfg.OutboundProxy(u)
	if err != nil || proxy == nil || n.isOwnListener(proxy.Host) {
		return nil, err
	}
	return proxy, nil
}

func (n *Node) isOwnListener(hostPort string) bool {
	return slices.ContainsFunc(n.entries, func(e entry) bool { return e.addr.String() == hostPort })
}

func (n *Node) dialer() *egress.Dialer { return &egress.Dialer{RootCAs: n.cfg.Roots} }
