package node

import (
	"context"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ginnel/internal/egress"
	"ginnel/internal/sys"
)

// Destinations outside the mesh: dialled from the host, by the proxy of its environment, or not at
// all.

// policyError is a refusal by this node's own settings. It is fs.ErrPermission.
type policyError string

func (e policyError) Error() string { return "refused: " + string(e) }
func (e policyError) Unwrap() error { return fs.ErrPermission }

// dialHost connects to addr, host:port, on the host's network. The host is not in the mesh.
func (n *Node) dialHost(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ip, _ := netip.ParseAddr(host) // invalid for a name
	if err := n.mayLeave(ip); err != nil {
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
	return n.cfg.dialHost(ctx, network, addr)
}

// mayLeave says no for a node that keeps to the mesh, or to an exit node, and protects what listens
// on this machine only from clients on others. A name is invalid here.
//
// With an exit node whatever is not this machine lies in the mesh, as soon as the exit node is
// there. So nothing else may leave by the host, whatever the map says by now.
func (n *Node) mayLeave(to netip.Addr) error {
	if n.cfg.MeshOnly {
		return policyError("it is outside the mesh, and --mesh-only is set")
	}
	lost := n.netmap.Load().ExitLost != ""
	if (n.wantsExit() || lost) && !to.IsLoopback() && !to.IsUnspecified() {
		switch {
		case n.member != nil && !n.member.hasJoined():
			return policyError("it is outside the mesh, and the exit node is not known yet")
		case to.IsValid() || lost:
			return policyError("it is outside the mesh, and the exit node is not there")
		}
		return policyError("nobody can be asked for it by way of the exit node: the network has no nameservers, and the exit node answers no questions")
	}
	if to.IsValid() && hostsOnly(to) && n.guardsHost() {
		return policyError("it is this machine's own, and the proxy serves others too")
	}
	return nil
}

// wantsExit reports whether everything that is not in the mesh is to leave by an exit node.
func (n *Node) wantsExit() bool { return n.cfg.Control != nil && n.cfg.Control.ExitNode != "" }

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

// leavesToProxy reports whether a name is left to the proxy of the environment to resolve: often
// nobody else can.
func (n *Node) leavesToProxy(network, host string) bool {
	if network != "tcp" || n.cfg.MeshOnly || len(n.netmap.Load().DNS.Servers) > 0 || n.wantsExit() {
		return false
	}
	if _, inMesh := n.routes.Load().names[hostName(host)]; inMesh {
		return false
	}
	m := n.netmap.Load()
	if _, routed := m.DNS.route(hostName(host), m.Domain); routed || m.Mesh && !strings.Contains(host, ".") {
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
	if err != nil || proxy == nil || n.isOwnProxy(proxy) {
		return nil, err
	}
	return proxy, nil
}

// isOwnProxy reports whether a proxy is one of our listeners, however its address is written: each
// connection to it would make us dial it again.
func (n *Node) isOwnProxy(proxy *url.URL) bool {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
		if port == "" {
			port = "1080"
		}
	}
	return slices.ContainsFunc(n.local, func(own netip.AddrPort) bool {
		return strconv.Itoa(int(own.Port())) == port && reaches(proxy.Hostname(), own.Addr().Unmap())
	})
}

// reaches reports whether host is a way to a listener of this machine on addr.
func reaches(host string, addr netip.Addr) bool {
	ip := netip.IPv6Loopback()
	if name := hostName(host); name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		var err error
		if ip, err = netip.ParseAddr(host); err != nil {
			return false
		}
	} else if addr.IsLoopback() {
		return true // in either family
	}
	ip = ip.Unmap()
	switch {
	case ip == addr:
		return true
	case ip.IsUnspecified():
		return addr.IsLoopback() || isHostAddr(addr)
	case addr.IsUnspecified():
		return ip.IsLoopback() || isHostAddr(ip)
	}
	return false
}

// isHostAddr reports whether an interface of this machine has the address.
func isHostAddr(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// dialOnHost connects to addr as net.Dialer does.
func dialOnHost(ctx context.Context, network, addr string) (net.Conn, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil && network == "tcp" {
		return sys.DialTCP(ctx, ap)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func (n *Node) dialer() *egress.Dialer { return &egress.Dialer{RootCAs: n.cfg.Roots} }
