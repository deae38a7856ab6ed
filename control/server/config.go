package server

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/meshaddr"
	"ginnel/key"
)

const (
	defaultEphemeralTimeout = time.Minute
	defaultOfflineGrace     = 10 * time.Second
	defaultMaxUnregistered  = 4096
	defaultMaxNodes         = 100_000
	requestTimeout          = 30 * time.Second
)

// Config configures a [Server]. Store, URL and BaseDomain are required. It must not change after
// New.
type Config struct {
	// Store keeps the whole state, including the server's key. The server does not close it.
	Store Store
	// URL is the server's address for clients. Login pages are below it.
	URL string
	// BaseDomain is the domain of the nodes' names, without a leading or trailing dot.
	BaseDomain string
	// V4 and V6 are the ranges of node addresses. If neither is valid, they are 100.64.0.0/10 and
	// fd7a:115c:a1e0::/48. If one is valid, nodes get addresses of that family only.
	V4, V6 netip.Prefix
	// DERPMap is the relay map; see [Server.SetDERPMap].
	DERPMap control.DERPMap
	// DNS are the DNS settings of all nodes; see [Server.SetDNS].
	DNS control.DNSConfig
	// Policy replaces the stored policy when the server starts, unless it is empty.
	Policy []byte

	// EphemeralTimeout is how long an ephemeral node may be absent before it is deleted; 0 means
	// one minute.
	EphemeralTimeout time.Duration
	// OfflineGrace is how long a node may be absent before it counts as offline; 0 means 10 s.
	OfflineGrace time.Duration
	// NodeExpiry is the lifetime of the node key of an untagged node; 0 means that keys do not
	// expire.
	NodeExpiry time.Duration
	// Revoked, if not nil, is called with each node key that is no longer valid because its node
	// was deleted, has expired or has another key. It must not block.
	Revoked func(key.NodePublic)
	// MaxUnregistered limits the connections of machines without a node; 0 means 4096.
	MaxUnregistered int
	// MaxNodes limits the number of nodes; 0 means 100000.
	MaxNodes int

	// Version is what GET /version reports.
	Version string
	// Log receives registrations and failures; nil discards them.
	Log *slog.Logger
	// Now is the wall clock, by which keys, tokens and logins expire; nil means time.Now.
	Now func() time.Time
}

func (c *Config) ephemeralTimeout() time.Duration {
	return cmp.Or(c.EphemeralTimeout, defaultEphemeralTimeout)
}

func (c *Config) offlineGrace() time.Duration { return cmp.Or(c.OfflineGrace, defaultOfflineGrace) }

func (c *Config) maxUnregistered() int { return cmp.Or(c.MaxUnregistered, defaultMaxUnregistered) }

func (c *Config) maxNodes() int { return cmp.Or(c.MaxNodes, defaultMaxNodes) }

func (c *Config) url() string { return strings.TrimRight(c.URL, "/") }

func (c *Config) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// moment is the time of an event on both clocks. Dates, such as the expiry of a key, are compared
// with now, the wall clock, which may be set forward and back. Durations, such as how long a node
// has been absent, are measured with mono, the monotonic clock.
type moment struct{ now, mono time.Time }

func (c *Config) moment() moment {
	m := moment{mono: time.Now()}
	m.now = m.mono.Round(0)
	if c.Now != nil {
		m.now = c.Now().Round(0)
	}
	return m
}

func (c *Config) prefixes() (v4, v6 netip.Prefix) {
	if !c.V4.IsValid() && !c.V6.IsValid() {
		return meshaddr.Ranges()
	}
	return c.V4, c.V6
}

// dns adds the settings that nodes need in order to resolve the names of nodes.
func (c *Config) dns(d control.DNSConfig) *control.DNSConfig {
	d.Proxied = true
	d.Domains = append([]string{c.BaseDomain}, d.Domains...)
	return &d
}

func (c *Config) check() error {
	if c.Store == nil {
		return errors.New("control server: no store")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("control server: URL %q must be http://HOST or https://HOST", c.URL)
	}
	for label := range strings.SplitSeq(c.BaseDomain, ".") {
		if !validLabel(label) || len(c.BaseDomain) > maxName-maxLabel-2 {
			return fmt.Errorf("control server: base domain %q is not a valid domain name", c.BaseDomain)
		}
	}
	return nil
}
