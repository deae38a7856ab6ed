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
	"ginnel/relay"
)

// hostDialer connects to what is outside the mesh: from the host, or through the proxy of its
// environment. It needs no running node. Whether a destination may be dialled from the host is up
// to dialer.mayLeave.
type hostDialer struct {
	cfg *Config
	own []netip.AddrPort // TCP listeners of this node; not changed once they are all open
}

// dial connects to addr, host:port, through the proxy of the environment if there is one for it.
func (h *hostDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "tcp" {
		proxy, err := h.proxyFor(&url.URL{Scheme: "https", Host: addr})
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			return h.egress().Dial(ctx, proxy, addr)
		}
	}
	return h.cfg.dialHost(ctx, network, addr)
}

func (h *hostDialer) egress() *egress.Dialer { return &egress.Dialer{RootCAs: h.cfg.Roots} }

// relayClient returns how relays are reached in order to measure them.
func (h *hostDialer) relayClient() relay.ClientConfig {
	return relay.ClientConfig{Roots: h.cfg.Roots, Proxy: h.proxyFor, DialProxy: h.egress().Dial}
}

// proxyFor is Config.OutboundProxy without the node's own proxies, which would dial this node
// again.
func (h *hostDialer) proxyFor(u *url.URL) (*url.URL, error) {
	if h.cfg.OutboundProxy == nil {
		return nil, nil
	}
	proxy, err := h.cfg.OutboundProxy(u)
	if err != nil || proxy == nil || h.isOwnProxy(proxy) {
		return nil, err
	}
	return proxy, nil
}

// isOwnProxy reports whether a proxy is one of our listeners, however its address is written.
func (h *hostDialer) isOwnProxy(proxy *url.URL) bool {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
		if port == "" {
			port = "1080"
		}
	}
	return slices.ContainsFunc(h.own, func(own netip.AddrPort) bool {
		return strconv.Itoa(int(own.Port())) == port && reaches(proxy.Hostname(), own.Addr().Unmap())
	})
}

// reaches reports whether a connection to host comes to a listener of this machine on addr.
func reaches(host string, addr netip.Addr) bool {
	ip := netip.IPv6Loopback()
	if name := hostName(host); name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		var err error
		if ip, err = netip.ParseAddr(host); err != nil {
			return false
		}
	} else if addr.IsLoopback() {
		return true // localhost has addresses of both families
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

// dialOnHost connects to addr as net.Dialer does.
func dialOnHost(ctx context.Context, network, addr string) (net.Conn, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil && network == "tcp" {
		return sys.DialTCP(ctx, ap)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// policyError is a refusal by this node's own settings. It is fs.ErrPermission.
type policyError string

func (e policyError) Error() string { return "refused: " + string(e) }
func (e policyError) Unwrap() error { return fs.ErrPermission }

// dialHost connects to addr, host:port, which is not in the mesh, if the settings allow that.
func (d *dialer) dialHost(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ip, _ := netip.ParseAddr(host) // invalid for a name
	if err := d.mayLeave(ip); err != nil {
		return nil, err
	}
	return d.host.dial(ctx, network, addr)
}

// mayLeave refuses destinations outside the mesh that this node must not dial from the host. A name
// is passed as an invalid address.
//
// With Config.MeshOnly these are all of them. With an exit node all except this machine itself:
// once the exit node is there, they belong to the mesh, and before that they must not leave by
// another way. Addresses that mean this machine or its link are refused if clients may be on other
// machines.
func (d *dialer) mayLeave(to netip.Addr) error {
	if d.cfg.MeshOnly {
		return policyError("the destination is outside the mesh, and --mesh-only is set")
	}
	lost := d.plane.netmap.Load().ExitLost != ""
	if (d.cfg.wantsExit() || lost) && !to.IsLoopback() && !to.IsUnspecified() {
		switch {
		case d.member != nil && !d.member.hasJoined():
			return policyError("the destination is outside the mesh, and the exit node is not known yet")
		case to.IsValid() || lost:
			return policyError("the destination is outside the mesh, and the exit node is not there")
		}
		return policyError("no server behind the exit node resolves names: " +
			"the network has no nameservers, and the exit node answers no DNS queries")
	}
	if to.IsValid() && hostsOnly(to) && d.cfg.servesOthers() {
		return policyError("the destination is this machine or its link, and the proxy serves other machines too")
	}
	return nil
}

// wantsExit reports whether traffic to destinations outside the mesh is to leave by an exit node.
func (c *Config) wantsExit() bool { return c.Control != nil && c.Control.ExitNode != "" }

// servesOthers reports whether a proxy listens on an address that other machines reach.
func (c *Config) servesOthers() bool {
	return slices.ContainsFunc(c.Proxies, func(a net.Addr) bool {
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

// leavesToProxy reports whether the proxy of the environment is to resolve a name. Behind such a
// proxy, this machine often cannot resolve names outside.
func (d *dialer) leavesToProxy(network, host string) bool {
	if network != "tcp" || d.cfg.MeshOnly || len(d.plane.netmap.Load().DNS.Servers) > 0 || d.cfg.wantsExit() {
		return false
	}
	if _, inMesh := d.plane.routes.Load().names[hostName(host)]; inMesh {
		return false
	}
	m := d.plane.netmap.Load()
	if _, routed := m.DNS.route(hostName(host), m.Domain); routed || m.Mesh && !strings.Contains(host, ".") {
		return false
	}
	proxy, err := d.host.proxyFor(&url.URL{Scheme: "https", Host: host})
	return err == nil && proxy != nil
}
