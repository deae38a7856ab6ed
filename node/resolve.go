package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
)

// lookup resolves a host name: names of the mesh by the map, others by the map's DNS servers or the host's resolver.
// Addresses come in the order in which to try them.
func (n *Node) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	name := hostName(host)
	switch entry, known := n.routes.Load().names[name]; {
	case entry.ambiguous:
		return nil, &unreachableError{who: name, why: "several nodes have this name; use an address", errno: syscall.EHOSTUNREACH}
	case known:
		return entry.addrs, nil
	}
	dns := n.netmap.Load().DNS
	if len(dns.Servers) == 0 || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	var firstErr error
	for _, candidate := range searchList(host, dns.Search) {
		addrs, err := n.askServers(ctx, candidate, dns.Servers)
		if err == nil {
			return addrs, nil
		}
		if firstErr == nil || ctx.Err() != nil {
			firstErr = err
		}
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
			return nil, err
		}
	}
	return nil, firstErr
}

// searchList is the order in which resolv.conf(5) tries names: one with a dot first as it is, one without first in the
// search domains. A dot at the end means that the name is whole.
func searchList(host string, search []string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	absolute := host + "."
	var list []string
	for _, domain := range search {
		list = append(list, host+"."+strings.TrimSuffix(domain, ".")+".")
	}
	if strings.Contains(host, ".") {
		return append([]string{absolute}, list...)
	}
	return append(list, absolute)
}

// askServers asks the map's DNS servers, each in turn, by way of the mesh if they are in it.
func (n *Node) askServers(ctx context.Context, name string, servers []netip.Addr) ([]netip.Addr, error) {
	var turn atomic.Uint32
	r := &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			server := servers[int(turn.Add(1)-1)%len(servers)]
			return n.dialAddr(ctx, network, netip.AddrPortFrom(server, 53))
		},
	}
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, serverError(err, servers)
	}
	return addrs, nil
}

// serverError names the servers that were asked: net.Resolver names the host's, which were not.
func serverError(err error, servers []netip.Addr) error {
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return err
	}
	e := *dns
	e.Name = strings.TrimSuffix(e.Name, ".")
	e.Server = fmt.Sprint(servers)
	e.UnwrapErr = dns
	return &e
}
