package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"ginnel/internal/neterr"
	"ginnel/relay/internal/derp"
)

// This file finds a relay and makes the TCP connection to it (1.10).

const (
	nodeTimeout        = 1500 * time.Millisecond
	clientKeepAlive    = 30 * time.Second
	clientWriteTimeout = 10 * time.Second
)

var (
	errNoNode      = errors.New("region has no relay to connect to")
	errNoFamily    = errors.New("both address families of the relay are disabled")
	errNoDialProxy = errors.New("dialing through a proxy is not configured")
)

// target is a relay as the map or a URL describes it.
type target struct {
	host     string // dialed unless v4 or v6 is set; sent as Host and SNI
	port     int
	path     string
	plain    bool // HTTP without TLS
	certName string
	insecure bool
	v4, v6   string // as Node.IPv4 and Node.IPv6
	ideal    string // name of the region's first node, if this is another one
}

// nodeTargets returns the relays of a region in the order in which they are tried. The first one is
// the ideal one.
func nodeTargets(r *Region) []*target {
	var ts []*target
	var ideal string
	for _, n := range r.Nodes {
		if n == nil || n.STUNOnly {
			continue
		}
		t := &target{host: n.HostName, port: n.port(), path: "/derp", v4: n.IPv4, v6: n.IPv6, ideal: ideal,
			certName: n.CertName, insecure: n.InsecureForTests}
		if len(ts) == 0 {
			ideal = n.Name
		}
		ts = append(ts, t)
	}
	return ts
}

// urlTarget returns the relay at a URL.
func urlTarget(rawURL string) (*target, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("reading the relay's URL: %w", err)
	}
	t := &target{host: u.Hostname(), port: defaultPort, path: u.Path}
	switch u.Scheme {
	case "https":
	case "http":
		t.plain, t.port = true, defaultPlainPort
	default:
		return nil, fmt.Errorf("reading the relay's URL: scheme %q is neither https nor http", u.Scheme)
	}
	if t.host == "" {
		return nil, fmt.Errorf("reading the relay's URL: no host in %q", rawURL)
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("reading the relay's URL: %q is not a port", p)
		}
		t.port = int(n)
	}
	if t.path == "" || t.path == "/" {
		t.path = "/derp"
	}
	return t, nil
}

// hostHeader returns the host, with the port unless that is the default of the scheme.
func (t *target) hostHeader() string {
	if t.plain {
		return hostPort(t.host, t.port, defaultPlainPort)
	}
	return hostPort(t.host, t.port, defaultPort)
}

// url returns the relay's URL, by which a proxy is chosen.
func (t *target) url() *url.URL {
	u := &url.URL{Scheme: "https", Host: t.hostHeader(), Path: t.path}
	if t.plain {
		u.Scheme = "http"
	}
	return u
}

// dialRoute is one address to dial.
type dialRoute struct{ network, addr string }

// routes returns the addresses to dial at the same time, one for each address family.
func (t *target) routes() []dialRoute {
	var rs []dialRoute
	port := strconv.Itoa(t.port)
	literal, _ := netip.ParseAddr(t.host)
	for _, f := range []struct {
		network, given string
		is             func(netip.Addr) bool
	}{
		{"tcp4", t.v4, netip.Addr.Is4},
		{"tcp6", t.v6, netip.Addr.Is6},
	} {
		if literal.IsValid() && !f.is(literal) {
			continue
		}
		host := t.host
		if f.given != "" {
			ip, err := netip.ParseAddr(f.given)
			if err != nil || !f.is(ip) {
				continue // "none" by convention
			}
			host = f.given
		}
		rs = append(rs, dialRoute{f.network, net.JoinHostPort(host, port)})
	}
	return rs
}

// dialAny connects to the first target that accepts. If TLS or DERP fails after that, no other
// target is tried.
func dialAny(ctx context.Context, cfg *ClientConfig, targets []*target) (net.Conn, *target, error) {
	err := errNoNode
	for _, t := range targets {
		var conn net.Conn
		if conn, err = dialTCP(ctx, cfg, t); err == nil {
			return conn, t, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, err
}

// dialTCP connects to one target, through a proxy if one is configured for it.
func dialTCP(ctx context.Context, cfg *ClientConfig, t *target) (net.Conn, error) {
	conn, err := dialDirectOrProxy(ctx, cfg, t)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", t.hostHeader(), neterr.Cause(t.hostHeader(), err))
	}
	return derp.WrapTCP(conn, net.KeepAliveConfig{Enable: true, Idle: clientKeepAlive, Interval: clientKeepAlive}), nil
}

func dialDirectOrProxy(ctx context.Context, cfg *ClientConfig, t *target) (net.Conn, error) {
	if cfg.Proxy != nil {
		proxy, err := cfg.Proxy(t.url())
		switch {
		case err != nil:
			return nil, fmt.Errorf("choosing a proxy: %w", err)
		case proxy != nil && cfg.DialProxy == nil:
			return nil, errNoDialProxy
		case proxy != nil:
			return cfg.DialProxy(ctx, proxy, net.JoinHostPort(t.host, strconv.Itoa(t.port)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	routes := t.routes()
	if len(routes) == 0 {
		return nil, errNoFamily
	}
	return newDialRace(cfg.dialContext(), routes).run(ctx)
}

// dialRace dials several addresses at once and keeps the first connection.
type dialRace struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	routes []dialRoute
	wg     sync.WaitGroup
	donec  chan dialResult
}

type dialResult struct {
	conn net.Conn
	err  error
}

func newDialRace(dial func(ctx context.Context, network, addr string) (net.Conn, error), routes []dialRoute) *dialRace {
	return &dialRace{dial: dial, routes: routes, donec: make(chan dialResult, len(routes))}
}

// run dials and returns when all attempts have ended. The first success ends the others. If all
// fail, the error has the cause of each.
func (r *dialRace) run(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, route := range r.routes {
		r.wg.Go(r.dialOne(ctx, route))
	}
	var first net.Conn
	var failed error
	for range r.routes {
		switch d := <-r.donec; {
		case d.err != nil && failed == nil:
			failed = d.err
		case d.err != nil:
			failed = fmt.Errorf("%w; %w", failed, d.err)
		case first == nil:
			first = d.conn
			cancel()
		default:
			d.conn.Close()
		}
	}
	r.wg.Wait()
	if first != nil {
		return first, nil
	}
	return nil, failed
}

// dialOne returns a function that dials one address.
func (r *dialRace) dialOne(ctx context.Context, route dialRoute) func() {
	return func() {
		conn, err := r.dial(ctx, route.network, route.addr)
		r.donec <- dialResult{conn, err}
	}
}
