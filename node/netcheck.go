package node

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/transport"
)

const (
	netCheckTimeout = 15 * time.Second // bounds a check of the network
	udpTimeout      = 4 * time.Second  // a little more than a round of STUN takes
	udpPoll         = 10 * time.Millisecond
)

// Mapping is how NAT changes the source addresses of outgoing UDP.
type Mapping string

// The kinds of mapping.
const (
	MappingNone Mapping = "none" // addresses are not changed
	MappingEasy Mapping = "easy" // one address for all destinations (endpoint-independent mapping, RFC 4787)
	MappingHard Mapping = "hard" // another address for each destination
)

// NetReport is the result of a check of the network. Scripts read its JSON. Unknown values are left
// out.
type NetReport struct {
	UDP         bool           `json:"udp"`
	IPv4        bool           `json:"ipv4"`
	IPv6        bool           `json:"ipv6"`
	Mapping     Mapping        `json:"mapping,omitempty"`
	GlobalV4    netip.AddrPort `json:"global_v4,omitzero"`
	GlobalV6    netip.AddrPort `json:"global_v6,omitzero"`
	Relays      []RelayReport  `json:"relays"`
	Home        string         `json:"home,omitempty"`
	Proxy       string         `json:"proxy,omitempty"`        // on the way to relays, without its password
	InspectedBy string         `json:"inspected_by,omitempty"` // issuer of certificates in place of the relays' own
}

// RelayReport is the result for one region.
type RelayReport struct {
	Region    int     `json:"region"`
	Name      string  `json:"name"`
	LatencyMS float64 `json:"latency_ms,omitempty"`
	Transport string  `json:"transport,omitempty"` // of the measurement: udp or https
	Error     string  `json:"error,omitempty"`
}

// NetCheck checks what the network between this machine and the relays lets through, with sockets
// of its own. Of cfg it uses Map.Relays, Map.Home, RelayOnly, UDPAddr, Roots, OutboundProxy,
// LookupHost and Log.
func NetCheck(ctx context.Context, cfg Config) (NetReport, error) {
	if err := cfg.Map.Relays.Validate(); err != nil {
		return NetReport{}, err
	}
	return runNetCheck(ctx, &hostDialer{cfg: &cfg}, cfg.log(), &cfg.Map)
}

func runNetCheck(ctx context.Context, host *hostDialer, log *slog.Logger, m *NetworkMap) (NetReport, error) {
	if len(m.Relays.Regions) == 0 {
		return NetReport{}, errNoRelays
	}
	ctx, cancel := context.WithTimeout(ctx, netCheckTimeout)
	defer cancel()
	c := &netCheck{host: host, cfg: host.cfg, log: log, m: m, report: NetReport{Relays: []RelayReport{}},
		failed: make(map[int]error), https: make(map[int]relay.Measurement)}
	if !c.cfg.RelayOnly {
		if err := c.probeUDP(ctx); err != nil {
			return c.report, err
		}
	}
	c.probeHTTPS(ctx)
	c.finish()
	return c.report, nil
}

var errNoRelays = errors.New("there is no relay in the network map that the network could be measured by")

// netCheck is a check in progress.
type netCheck struct {
	host   *hostDialer
	cfg    *Config
	log    *slog.Logger
	m      *NetworkMap
	report NetReport
	udp    transport.Status
	wg     sync.WaitGroup

	mu     sync.Mutex
	https  map[int]relay.Measurement
	failed map[int]error
}

// probeUDP has the transport ask all STUN servers, once.
func (c *netCheck) probeUDP(ctx context.Context) error {
	tr, err := transport.New(transport.Config{NodeKey: key.NewNodePrivate().Public(), Addr: c.cfg.UDPAddr, Log: c.log})
	if err != nil {
		return err
	}
	defer tr.Close()
	// The transport itself reads the answers of STUN servers.
	if err := tr.Open(func([][]byte, conn.Endpoint) {}); err != nil {
		return err
	}
	servers := stunFinder{c.cfg, c.log}.servers(ctx, &c.m.Relays)
	if len(servers) == 0 {
		return nil
	}
	tr.SetSTUN(servers)
	ctx, cancel := context.WithTimeout(ctx, udpTimeout)
	defer cancel()
	c.awaitRound(ctx, tr)
	return nil
}

// awaitRound polls for the end of the round, because transport.Conn.Watch does not report it if
// nothing else changes.
func (c *netCheck) awaitRound(ctx context.Context, tr *transport.Conn) {
	ticker := time.NewTicker(udpPoll)
	defer ticker.Stop()
	for {
		c.udp = tr.Status()
		if c.udp.Measured {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// probeHTTPS measures the regions that UDP has not measured, and the home, because a node needs its
// TLS connection.
func (c *netCheck) probeHTTPS(ctx context.Context) {
	for _, id := range c.m.Relays.RegionIDs() {
		if _, measured := c.udp.Latency[id]; !measured || id == c.home() {
			c.wg.Go(func() { c.probeRegion(ctx, id) })
		}
	}
	c.wg.Wait()
}

func (c *netCheck) probeRegion(ctx context.Context, id int) {
	m, err := relay.Measure(ctx, c.m.Relays.Regions[id], c.host.relayClient())
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed[id] = err
		return
	}
	c.https[id] = m
}

// home returns the node's home, or the region that it would choose.
func (c *netCheck) home() int {
	if c.m.Home != 0 {
		return c.m.Home
	}
	latency := make(map[int]time.Duration)
	for id, m := range c.https {
		latency[id] = m.Latency
	}
	for id, l := range c.udp.Latency {
		latency[id] = l
	}
	if len(latency) == 0 {
		return 0
	}
	return newHomeChooser().choose(time.Now(), &c.m.Relays, latency, time.Time{})
}

// finish writes the report.
func (c *netCheck) finish() {
	r := &c.report
	r.GlobalV4, r.GlobalV6 = c.udp.Global4, c.udp.Global6
	r.UDP = r.GlobalV4.IsValid() || r.GlobalV6.IsValid()
	r.IPv4, r.IPv6 = r.GlobalV4.IsValid(), r.GlobalV6.IsValid()
	r.Mapping = c.mapping()
	for _, id := range c.m.Relays.RegionIDs() {
		line := RelayReport{Region: id, Name: regionName(&c.m.Relays, id)}
		m, answered := c.https[id]
		if l, ok := c.udp.Latency[id]; ok {
			line.LatencyMS, line.Transport = milliseconds(l), "udp"
		} else if answered {
			line.LatencyMS, line.Transport = milliseconds(m.Latency), "https"
		}
		if err := c.failed[id]; err != nil {
			line.Error = err.Error()
			if by := inspector(err); by != "" {
				r.InspectedBy = by
			}
		}
		proxy := c.proxyFor(id)
		if proxy != "" {
			r.Proxy = proxy
		} else if answered { // with a proxy, RemoteAddr is the proxy's
			r.IPv4 = r.IPv4 || m.RemoteAddr.Addr().Is4()
			r.IPv6 = r.IPv6 || m.RemoteAddr.Addr().Is6()
		}
		r.Relays = append(r.Relays, line)
	}
	r.Home = regionName(&c.m.Relays, c.home())
}

// mapping compares the addresses that STUN servers saw with those of this machine. It takes two
// servers to tell easy from hard.
func (c *netCheck) mapping() Mapping {
	seen := []netip.AddrPort{c.udp.Global4, c.udp.Global6}
	switch {
	case c.udp.MappingVaries:
		return MappingHard
	case slices.ContainsFunc(seen, func(a netip.AddrPort) bool { return a.IsValid() && !isHostAddr(a.Addr()) }):
		if len(c.udp.Latency) < 2 {
			return ""
		}
		return MappingEasy
	case c.report.UDP:
		return MappingNone
	}
	return ""
}

// proxyFor returns the URL of the proxy on the way to a region, without its password; empty if
// none.
func (c *netCheck) proxyFor(id int) string {
	for _, rn := range c.m.Relays.Regions[id].Nodes {
		proxy, err := c.host.proxyFor(&url.URL{Scheme: "https", Host: rn.HostName})
		if err == nil && proxy != nil {
			return proxy.Redacted()
		}
	}
	return ""
}

// inspector returns the issuer of a certificate that was not accepted.
func inspector(err error) string {
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok && unknown.Cert != nil {
		return unknown.Cert.Issuer.String()
	}
	return ""
}

// serveNetCheck answers with a check of the network. One check runs at a time.
func (a *localAPI) serveNetCheck(w http.ResponseWriter, r *http.Request) {
	if fromWebPage(w, r) {
		return
	}
	if !a.checking.CompareAndSwap(false, true) {
		writeJSON(w, http.StatusTooManyRequests, apiError{"a check is running already"})
		return
	}
	defer a.checking.Store(false)
	report, err := runNetCheck(r.Context(), a.n.host, a.n.log, a.n.plane.netmap.Load())
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, errNoRelays) {
			status = http.StatusConflict
		}
		writeJSON(w, status, apiError{err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, report)
}
