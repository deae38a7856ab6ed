package node

import (
	"context"
	"net/netip"
	"time"

	"ginnel/relay"
	"ginnel/transport"
)

const (
	defaultSTUNPort = 3478
	stunRefresh     = 10 * time.Minute // how often the names of relays are looked up again
)

// keepSTUN tells the transport the addresses of the relays' STUN servers.
func (n *Node) keepSTUN(ctx context.Context) {
	ticker := time.NewTicker(stunRefresh)
	defer ticker.Stop()
	for {
		if !n.cfg.RelayOnly {
			servers := n.stunServers(ctx)
			n.conn.SetSTUN(servers)
			if n.member != nil {
				n.member.noSTUN(len(servers))
			}
		}
		select {
		case <-ticker.C:
		case <-n.relaysChanged:
		case <-ctx.Done():
			return
		}
	}
}

// stunServers are the first STUN server of each region that may be measured, in each family it has.
func (n *Node) stunServers(ctx context.Context) (servers []transport.STUNServer) {
	return n.stunServersOf(ctx, &n.netmap.Load().Relays)
}

func (n *Node) stunServersOf(ctx context.Context, m *relay.Map) (servers []transport.STUNServer) {
	for _, id := range m.RegionIDs() {
		if r := m.Regions[id]; !r.NoMeasureNoHome {
			for _, node := range r.Nodes {
				if found := n.stunAddrs(ctx, node); len(found) > 0 {
					servers = append(servers, found...)
					break
				}
			}
		}
	}
	return servers
}

// stunAddrs are the addresses of one relay's STUN server (DERP specification, section 9.3).
func (n *Node) stunAddrs(ctx context.Context, node *relay.Node) (servers []transport.STUNServer) {
	port := node.STUNPort
	if port == 0 {
		port = defaultSTUNPort
	}
	if port < 0 || port > 65535 {
		return nil
	}
	add := func(a netip.Addr) {
		servers = append(servers, transport.STUNServer{Region: node.RegionID, Addr: netip.AddrPortFrom(a.Unmap(), uint16(port))})
	}
	if a, err := netip.ParseAddr(node.STUNTestIP); err == nil {
		add(a)
		return servers
	}
	need := false
	for _, text := range []string{node.IPv4, node.IPv6} {
		if a, err := netip.ParseAddr(text); err == nil {
			add(a)
		} else if text == "" {
			need = true // any other text means that the relay is not in this family
		}
	}
	if !need {
		return servers
	}
	if a, err := netip.ParseAddr(node.HostName); err == nil {
		if len(servers) == 0 {
			add(a)
		}
		return servers
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := n.cfg.lookupHost(ctx, node.HostName)
	if err != nil {
		n.log.Debug("looking up a STUN server", "host", node.HostName, "err", err)
	}
	seen := map[bool]bool{}
	for _, a := range addrs {
		is4 := a.Unmap().Is4()
		given := node.IPv6
		if is4 {
			given = node.IPv4
		}
		if given == "" && !seen[is4] {
			seen[is4] = true
			add(a)
		}
	}
	return servers
}
