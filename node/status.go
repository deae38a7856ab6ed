package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/transport"
)

// State is the state of a node.
type State string

// The states of a node.
const (
	StateStarting   State = "starting"
	StateNeedsLogin State = "needs-login"
	StateRunning    State = "running"
	StateStopped    State = "stopped"
)

// Status is a snapshot of a node. Scripts read its JSON.
type Status struct {
	State   State         `json:"state"`
	Reason  string        `json:"reason,omitempty"` // why the state is not StateRunning
	Self    SelfStatus    `json:"self"`
	Proxies []string      `json:"proxies"`
	DNS     string        `json:"dns,omitempty"` // where DNS is served
	Peers   []PeerStatus  `json:"peers"`
	Relays  []RelayStatus `json:"relays,omitempty"`
	Health  []HealthIssue `json:"health"`
}

// SelfStatus describes the node itself.
type SelfStatus struct {
	Name      string           `json:"name,omitempty"`
	Addresses []netip.Addr     `json:"addresses"`
	NodeKey   key.NodePublic   `json:"node_key"`
	Relay     string           `json:"relay,omitempty"` // home relay
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"`
	Started   time.Time        `json:"started"`
	Version   string           `json:"version,omitempty"` // of the program
}

// PeerStatus describes one peer.
type PeerStatus struct {
	Name          string         `json:"name,omitempty"`
	NodeKey       key.NodePublic `json:"node_key"`
	Addresses     []netip.Addr   `json:"addresses"`
	Routes        []netip.Prefix `json:"routes,omitempty"` // of the networks behind it
	Online        *bool          `json:"online,omitempty"`
	LastSeen      time.Time      `json:"last_seen,omitzero"` // by the server; only of a peer that is not online
	Path          PathKind       `json:"path"`
	Endpoint      string         `json:"endpoint,omitempty"`     // of a direct path
	Relay         string         `json:"relay,omitempty"`        // home relay of the peer
	DirectLossy   bool           `json:"direct_lossy,omitempty"` // relayed because the direct path loses too many packets
	LatencyMS     float64        `json:"latency_ms,omitempty"`
	RxBytes       uint64         `json:"rx_bytes"`
	TxBytes       uint64         `json:"tx_bytes"`
	LastHandshake time.Time      `json:"last_handshake,omitzero"`
}

// IsOffline reports whether the coordination server has no connection with the peer. The peer may
// be reachable all the same.
func (p *PeerStatus) IsOffline() bool { return p.Online != nil && !*p.Online }

// HasNoAnswer reports whether packets were sent to the peer and none was received from it.
func (p *PeerStatus) HasNoAnswer() bool { return p.RxBytes == 0 && p.TxBytes > 0 }

// RelayStatus describes a relay region to which the node has, or wants, a connection.
type RelayStatus struct {
	Name      string `json:"name"`
	State     string `json:"state"`               // idle, connecting, connected, waiting
	Transport string `json:"transport,omitempty"` // native, websocket, plain
	Endpoint  string `json:"endpoint,omitempty"`
	Error     string `json:"error,omitempty"`
	RxPackets uint64 `json:"rx_packets"`
	TxPackets uint64 `json:"tx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxBytes   uint64 `json:"tx_bytes"`
	Dropped   uint64 `json:"dropped"` // packets that could not be sent
}

// PathKind is how a peer is reached.
type PathKind string

// The kinds of path.
const (
	PathDirect PathKind = "direct"
	PathRelay  PathKind = "relay"
	PathNone   PathKind = "none"
)

// HealthIssue is a problem, and what to do about it.
type HealthIssue struct {
	Code string `json:"code"`
	Text string `json:"text"`
	Mend string `json:"mend,omitempty"`
}

// Status returns a snapshot of the node.
func (n *Node) Status() Status {
	var joining State
	var reason string
	var control error
	if n.member != nil {
		joining, reason, control = n.member.state()
	}
	m := n.plane.netmap.Load()
	if m == nil || n.life.isClosed() {
		return Status{State: StateStopped, Reason: "closed"}
	}
	ts, ps := n.plane.conn.Status(), n.plane.pool.Status()
	s := Status{State: StateRunning, Proxies: []string{}, Peers: []PeerStatus{}, Health: []HealthIssue{}}
	s.Self = SelfStatus{
		Name:      m.Name,
		Addresses: n.plane.stack.Addrs(),
		NodeKey:   n.plane.key().Public(),
		Relay:     regionName(&m.Relays, ps.Home),
		Endpoints: ts.Endpoints,
		Started:   n.started,
		Version:   n.cfg.Version,
	}
	s.DNS = n.ingress.dnsAddr()
	for _, a := range n.ingress.addrs(entryProxy) {
		s.Proxies = append(s.Proxies, addrText(a))
	}
	sessions := n.plane.peers.sessions()
	for i := range m.Peers {
		s.Peers = append(s.Peers, n.plane.peerStatus(m, &m.Peers[i], &ts, sessions[m.Peers[i].Key]))
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.NodeKey.String(), b.NodeKey.String()))
	})
	for i := range ps.Regions {
		if r := &ps.Regions[i]; r.State != relay.RegionIdle {
			s.Relays = append(s.Relays, relayStatus(m, r))
		}
	}
	s.Health = append(n.endpoints.health(m, sessions), health(m, &ps)...)
	hasPath := slices.ContainsFunc(s.Peers, func(p PeerStatus) bool { return p.Path == PathDirect })
	if err := cmp.Or(n.endpoints.noEndpoint(m, sessions), notReady(m, &ps)); err != nil && !hasPath {
		s.State, s.Reason = StateStarting, err.Error()
	}
	if n.member != nil {
		n.member.describe(&s, joining, reason, control)
	}
	if m.ExitLost != "" && s.State == StateRunning {
		s.State, s.Reason = StateStarting, m.ExitLost
	}
	if reason := n.awaits.reason(); reason != "" && s.State == StateRunning {
		s.State, s.Reason = StateStarting, reason
	}
	return s
}

func (d *dataPlane) peerStatus(m *NetworkMap, p *Peer, ts *transport.Status, s session) PeerStatus {
	out := PeerStatus{Name: p.Name, NodeKey: p.Key, Addresses: []netip.Addr{}, Online: p.Online, LastSeen: p.LastSeen,
		Path:    PathNone,
		RxBytes: s.rx, TxBytes: s.tx, LastHandshake: s.handshake}
	for _, prefix := range p.Addresses {
		if prefix.IsSingleIP() {
			out.Addresses = append(out.Addresses, prefix.Addr())
		} else {
			out.Routes = append(out.Routes, prefix)
		}
	}
	if p.Plain {
		out.Endpoint = s.endpointText()
		if recent(s.handshake) {
			out.Path = PathDirect
		}
		return out
	}
	t := ts.Peers[p.Key]
	out.Relay = regionName(&m.Relays, p.Region)
	switch {
	case t.Trusted:
		out.Path, out.Endpoint = PathDirect, t.Direct.String()
		out.LatencyMS = milliseconds(t.Latency)
	case recent(s.handshake), d.hasPonged(p.Key):
		out.Path, out.DirectLossy = PathRelay, t.Lossy
	}
	return out
}

// hasPonged reports whether a peer has recently answered a ping through its relay.
func (d *dataPlane) hasPonged(k key.NodePublic) bool {
	at, ok := d.relayPongs.load(k)
	return ok && recent(at)
}

func relayStatus(m *NetworkMap, r *relay.RegionStatus) RelayStatus {
	out := RelayStatus{
		Name:      regionName(&m.Relays, r.Region),
		State:     r.State.String(),
		RxPackets: r.RxPackets,
		TxPackets: r.TxPackets,
		RxBytes:   r.RxBytes,
		TxBytes:   r.TxBytes,
		Dropped:   r.Drops,
	}
	if r.State == relay.RegionConnected {
		out.Transport, out.Endpoint = r.Transport.String(), r.RemoteAddr.String()
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	return out
}

// sessionLifetime is REJECT-AFTER-TIME of the WireGuard paper, after which a session ends without a
// new handshake. An answer to a ping proves a path for the same time.
const sessionLifetime = 180 * time.Second

func recent(t time.Time) bool { return !t.IsZero() && time.Since(t) < sessionLifetime }

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

// regionName returns the code or the name of a region; empty for region 0.
func regionName(m *relay.Map, id int) string {
	if id == 0 {
		return ""
	}
	if r := m.Regions[id]; r != nil && cmp.Or(r.RegionCode, r.RegionName) != "" {
		return cmp.Or(r.RegionCode, r.RegionName)
	}
	return fmt.Sprint(id)
}

// notReady returns why the mesh cannot be used yet, as far as relays are concerned; nil if it can.
func notReady(m *NetworkMap, ps *relay.PoolStatus) error {
	if m.Home == 0 {
		return nil // plain WireGuard, or direct paths only
	}
	for _, r := range ps.Regions {
		if r.Region == m.Home {
			if r.State == relay.RegionConnected {
				return nil
			}
			if r.Err != nil {
				return fmt.Errorf("connecting to the home relay %s: %w", regionName(&m.Relays, m.Home), r.Err)
			}
		}
	}
	return fmt.Errorf("connecting to the home relay %s", regionName(&m.Relays, m.Home))
}

// noEndpoint returns why no peer has an endpoint, if the lookups of all endpoints have failed; nil
// otherwise.
func (e *endpointKeeper) noEndpoint(m *NetworkMap, sessions map[key.NodePublic]session) (err error) {
	for i := range m.Peers {
		p := &m.Peers[i]
		cause := e.lookupError(p)
		if cause == nil || sessions[p.Key].endpoint.IsValid() {
			return nil
		}
		err = fmt.Errorf("looking up the endpoint of peer %s: %w", p.display(), cause)
	}
	return err
}

// health returns an issue for each peer whose endpoint has no address.
func (e *endpointKeeper) health(m *NetworkMap, sessions map[key.NodePublic]session) []HealthIssue {
	issues := []HealthIssue{}
	for i := range m.Peers {
		p := &m.Peers[i]
		if err := e.lookupError(p); err != nil && !sessions[p.Key].endpoint.IsValid() {
			issues = append(issues, HealthIssue{Code: "endpoint-unresolved",
				Text: fmt.Sprintf("the endpoint of peer %s: %v", p.display(), err),
				Mend: "check the name in Endpoint and the host's DNS; it is looked up again while there is traffic"})
		}
	}
	return issues
}

const homeRelayUnreachable = "home-relay-unreachable"

// health returns the issues of relays.
func health(m *NetworkMap, ps *relay.PoolStatus) []HealthIssue {
	issues := []HealthIssue{}
	for _, r := range ps.Regions {
		name := regionName(&m.Relays, r.Region)
		switch {
		case r.Health != "":
			issues = append(issues, HealthIssue{Code: "relay-health", Text: fmt.Sprintf("relay %s says: %s", name, r.Health)})
		case r.Region == ps.Home && r.State != relay.RegionConnected && r.Err != nil:
			issues = append(issues, HealthIssue{Code: homeRelayUnreachable,
				Text: fmt.Sprintf("no connection to the home relay %s: %v", name, r.Err),
				Mend: "check that outgoing TCP to the relay is allowed, or name the proxy in HTTPS_PROXY"})
		}
	}
	return issues
}

// PingResult describes an answered ping. Scripts read its JSON.
type PingResult struct {
	Peer     string   `json:"peer"`
	Path     PathKind `json:"path"`
	Endpoint string   `json:"endpoint,omitempty"`
	Relay    string   `json:"relay,omitempty"`
	RTTMS    float64  `json:"rtt_ms"`
}

// ErrNoSuchPeer is the error for a name or address that no peer has.
var ErrNoSuchPeer = errors.New("no such peer")

// Ping pings a peer, given by name or address, through the mesh: by discovery, which reveals the
// path, or by ICMP if the peer is plain.
func (n *Node) Ping(ctx context.Context, host string) (PingResult, error) {
	if n.member != nil {
		if err := n.member.await(ctx); err != nil {
			return PingResult{}, err
		}
	}
	p, addr, err := n.findPeer(host)
	if err != nil {
		return PingResult{}, err
	}
	r := PingResult{Peer: p.display(), Path: PathDirect}
	if p.Plain || p.Disco.IsZero() {
		n.dialer.wakePeer(p)
		if err := n.plane.awaitUp(ctx); err != nil {
			return r, n.dialer.explain(err, netip.AddrPortFrom(addr, 0), p)
		}
		rtt, err := n.plane.stack.Ping(ctx, addr)
		if err != nil {
			return r, n.dialer.explain(err, netip.AddrPortFrom(addr, 0), p)
		}
		s, _ := n.plane.peers.session(p.Key)
		r.RTTMS, r.Endpoint = milliseconds(rtt), s.endpointText()
		return r, nil
	}
	why := "no answer"
	if p.isOffline() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, offlinePatience)
		defer cancel()
		why = p.offlineText()
	}
	pong, err := n.plane.conn.Ping(ctx, p.Key)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return r, &unreachableError{who: "peer " + p.display(), why: why, errno: err}
		}
		return r, fmt.Errorf("pinging %s: %w", p.display(), err)
	}
	r.RTTMS = milliseconds(pong.Latency)
	if pong.Addr.IsValid() {
		r.Endpoint = pong.Addr.String()
	} else {
		r.Path, r.Relay = PathRelay, regionName(&n.plane.netmap.Load().Relays, pong.Region)
		n.plane.relayPongs.store(p.Key, time.Now())
	}
	return r, nil
}

// findPeer finds a peer by its name, or by an address in its prefixes. It returns that address.
func (n *Node) findPeer(host string) (*Peer, netip.Addr, error) {
	r := n.plane.routes.Load()
	addr, err := netip.ParseAddr(host)
	if err != nil {
		switch entry, known := r.names[hostName(host)]; {
		case entry.ambiguous:
			return nil, netip.Addr{}, fmt.Errorf("%w: several nodes have the name %q; use an address", ErrNoSuchPeer, host)
		case !known:
			return nil, netip.Addr{}, fmt.Errorf("%w: %q", ErrNoSuchPeer, host)
		default:
			addr = entry.addrs[0]
		}
	}
	p := r.peer(addr.Unmap())
	if p == nil {
		return nil, netip.Addr{}, fmt.Errorf("%w: %q", ErrNoSuchPeer, host)
	}
	return p, addr.Unmap(), nil
}
