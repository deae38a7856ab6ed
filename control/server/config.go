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
	"ginnel/internal/key"
	"ginnel/internal/meshaddr"
)

const (
	defaultEphemeralTimeout = time.Minute
	defaultOfflineGrace     = 10 * time.Second
	defaultMaxUnregistered  = 4096
	defaultMaxNodes         = 100_000
	requestTimeout          = 30 * time.Second
)

// Config configures a [Server]. Store, URL and BaseDomain are required. It must not be changed
// afterwards.
type Config struct {
	// Store keeps everything, the server's key too. It is not closed by the server.
	Store Store
	// URL is where clients find the server; logins are approved below it.
	URL string
	// BaseDomain is the domain that the nodes' names are in, without a dot at its ends.
	BaseDomain string
	// V4 and V6 are where nodes get their addresses; if neither is valid, 100.64.0.0/10 and
	// fd7a:115c:a1e0::/48.
	V4, V6 netip.Prefix
	// DERPMap are the relays; see [Server.SetDERPMap].
	DERPMap control.DERPMap
	// DNS is sent to all nodes; see [Server.SetDNS].
	DNS control.DNSConfig
	// Policy, unless empty, replaces the stored policy when the server starts.
	Policy []byte

	// EphemeralTimeout is after how long away an ephemeral node is removed; 0 means one minute.
	EphemeralTimeout time.Duration
	// OfflineGrace is after how long away a node is shown as offline; 0 means 10 s.
	OfflineGrace time.Duration
	// NodeExpiry is how long the key of a node without tags is good for; 0 means for ever.
	NodeExpiry time.Duration
	// Revoked, unless it is nil, is called with each node key that is not good any more: of a node
	// that was deleted, has expired or has another key. It must not block.
	Revoked func(key.NodePublic)
	// MaxUnregistered bounds the connections of machines without a node; 0 means 4096.
	MaxUnregistered int
	// MaxNodes bounds the nodes; 0 means 100000.
	MaxNodes int

	// Version is what GET /version answers.
	Version string
	// Log gets registrations and failures; nil discards them.
	Log *slog.Logger
	// Now is the time of day, which what has a date is judged by; nil means time.Now.
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

// moment is when something happens, by both clocks. now is the time of day, for what has a date; it
// may be set forward and back. tick does nothing but go on, for what lasts a while, as long as
// somebody may be away.
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

// dns returns what nodes are told of names.
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
		return fmt.Errorf("control server: the URL %q is not one that clients could use", c.URL)
	}
	for label := range strings.SplitSeq(c.BaseDomain, ".") {
		if !validLabel(label) || len(c.BaseDomain) > maxName-maxLabel-2 {
			return fmt.Errorf("control server: %q is no domain for nodes' names", c.BaseDomain)
		}
	}
	return nil
}
