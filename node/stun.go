package node

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"ginnel/relay"
	"ginnel/transport"
)

const (
	defaultSTUNPort = 3478
	stunRefresh     = 10 * time.Minute // between two lookups of the relays' names
)

// stunKeeper gives the transport the addresses of the relays' STUN servers.
type stunKeeper struct {
	plane  *dataPlane
	find   stunFinder
	member *membership   // nil without a coordination server
	mapc   chan struct{} // capacity 1; has an item after a change of the map
}

func newSTUNKeeper(n *Node) *stunKeeper {
	return &stunKeeper{plane: n.plane, find: stunFinder{&n.cfg, n.log}, member: n.member, mapc: make(chan struct{}, 1)}
}

// run keeps the addresses until ctx ends.
func (k *stunKeeper) run(ctx context.Context) {
	ticker := time.NewTicker(stunRefresh)
	defer ticker.Stop()
	for {
		if !k.plane.cfg.RelayOnly {
			servers := k.find.servers(ctx, &k.plane.netmap.Load().Relays)
			k.plane.conn.SetSTUN(servers)
			if k.member != nil {
				k.member.noSTUN(len(servers))
			}
		}
		select {
		case <-ticker.C:
		case <-k.mapc:
		case <-ctx.Done():
			return
		}
	}
}

// stunFinder finds the addresses of STUN servers.
type stunFinder struct {
	cfg *Config
	log *slog.Logger
}

// servers returns the first STUN server of each region that may be measured, in each address family
// that it has.
func (f stunFinder) servers(ctx context.Context, m *relay.Map) (servers []transport.STUNServer) {
	for _, id := range m.RegionIDs() {
		if r := m.Regions[id]; !r.NoMeasureNoHome {
			for _, node := range r.Nodes {
				if found := f.addrs(ctx, node); len(found) > 0 {
					servers = append(servers, found...)
					break
				}
			}
		}
	}
	return servers
}

// addrs returns the addresses of one relay's STUN server (DERP specification, section 9.3).
func (f stunFinder) addrs(ctx context.Context, node *relay.Node) (servers []transport.STUNServer) {
	port := node.STUNPort
	if port == 0 {
		port = defaultSTUNPort
	}
	if port < 0 || port > 65535 {
		return nil
	}
	add := func(a netip.Addr) {
		servers = append(servers, transport.STUNServer{Region: node.RegionID,
			Addr: netip.AddrPortFrom(a.Unmap(), uint16(port))})
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
			need = true // any other text means that the relay has no address in this family
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
	addrs, err := f.cfg.lookupHost(ctx, node.HostName)
	if err != nil {
		f.log.Debug("looking up a STUN server", "host", node.HostName, "err", err)
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
