package controlcmd

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ginnel/control"
	"ginnel/internal/cli"
	"ginnel/internal/cli/service"
	"ginnel/internal/cli/statedir"
)

// serveOptions are the flags of control serve.
type serveOptions struct {
	service.Options
	url        string
	dev        bool
	baseDomain string
	policy     string
	dns        cli.Parsed[[]netip.Addr]
	dnsConfig  string

	ephemeralTimeout cli.Parsed[time.Duration]
	nodeExpiry       cli.Parsed[time.Duration]
	embedded         cli.Parsed[bool] // the relay
	derpMap          string

	// What check made of them.
	site       *url.URL // nil with --dev until the port is known
	how        tlsMode
	policyText []byte
	relays     control.DERPMap   // of --derp-map
	names      control.DNSConfig // of --dns or --dns-config
}

// tlsMode is where the TLS of the port comes from.
type tlsMode int

const (
	tlsSelfSigned tlsMode = iota
	tlsFiles
	tlsACME
	tlsElsewhere // a reverse proxy speaks TLS
	tlsForRelay  // plain HTTP, except for clients of the relay, which want TLS
)

const (
	defaultBaseDomain = "ginnel.internal"
	defaultSTUNPort   = "3478"
	devListen         = ":8080"
	proxiedListen     = "127.0.0.1:8080"
)

func newServeOptions() *serveOptions {
	return &serveOptions{
		dns:              cli.Parsed[[]netip.Addr]{Parse: parseAddrs, Kind: "ip,..."},
		ephemeralTimeout: cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration", Text: "60s", Value: time.Minute},
		nodeExpiry:       cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration", Text: "0"},
		embedded:         cli.Parsed[bool]{Parse: parseEmbedded, Kind: "kind", Text: "embedded", Value: true},
	}
}

func (o *serveOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.url, "url", "", "`URL` by which nodes find the server")
	fs.BoolVar(&o.dev, "dev", false, "need no other flag, and print the line with which another machine joins")
	fs.StringVar(&o.baseDomain, "base-domain", defaultBaseDomain, "`domain` that the nodes' names are in")
	fs.StringVar(&o.policy, "policy", "",
		"HuJSON `file` that says who may reach whom (without a policy, everybody everybody)")
	fs.Var(&o.dns, "dns", "`addr`esses of DNS servers for all nodes, separated by commas")
	fs.StringVar(&o.dnsConfig, "dns-config", "",
		"YAML `file` with DNS settings for all nodes: nameservers, split DNS, search domains, records")
	fs.Var(&o.ephemeralTimeout, "ephemeral-timeout", "how long after its last contact an ephemeral node is removed")
	fs.Var(&o.nodeExpiry, "node-expiry",
		"how long a node without tags may stay before it has to log in again, such as 180d (0: for ever)")
	fs.Var(&o.embedded, "relay", "`kind` of relay: embedded, or none if --derp-map names others")
	fs.StringVar(&o.derpMap, "derp-map", "", "JSON `file` with the DERP map of further relays")
	o.Add(fs, service.Usage{
		State: "`dir`ectory of the network and its keys (ginnel-control beside the node's)",
		Listen: "TCP `addr`ess of server and relay (the URL's port, on loopback if the URL is; " +
			"127.0.0.1:8080 for --plain with an https URL)",
		STUN: "UDP `addr`ess of the STUN server, or none (:3478, on loopback if the URL is)",
		ACME: "get a certificate from Let's Encrypt for the URL's host",
	})
}

// parseAddrs reads addresses separated by commas.
func parseAddrs(s string) (addrs []netip.Addr, err error) {
	for _, text := range cli.SplitList(s) {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%q is not an IP address", text)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// longestDays is the longest duration of a flag, in days. A time.Duration cannot hold much more.
const longestDays = 100 * 365

// parseLifetime reads a duration, which may be in days.
func parseLifetime(s string) (time.Duration, error) {
	const longest = longestDays * 24 * time.Hour
	if days, ok := strings.CutSuffix(s, "d"); ok && isNumber(days) {
		if n, err := strconv.Atoi(days); err == nil && n <= longestDays {
			return time.Duration(n) * 24 * time.Hour, nil
		}
		return 0, tooLong(s)
	}
	d, err := time.ParseDuration(s)
	if err == nil && d >= 0 && d <= longest {
		return d, nil
	}
	if _, err := time.ParseDuration(strings.Map(toZero, s)); err == nil && !isNumber(s) && !strings.HasPrefix(s, "-") {
		return 0, tooLong(s)
	}
	return 0, fmt.Errorf("%q is not a duration such as 60s, 24h or 180d", s)
}

func tooLong(s string) error {
	return fmt.Errorf("%q is too long: at most %dd, which is 100 years", s, longestDays)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func toZero(r rune) rune {
	if '1' <= r && r <= '9' {
		return '0'
	}
	return r
}

func parseEmbedded(s string) (bool, error) {
	if s != "embedded" && s != "none" {
		return false, fmt.Errorf("%q is neither embedded nor none", s)
	}
	return s == "embedded", nil
}

// check checks what concerns several flags, reads the files that must be good before the start, and
// sets what was left open.
func (o *serveOptions) check() error {
	if err := o.checkURL(); err != nil {
		return err
	}
	if err := o.checkTLS(); err != nil {
		return err
	}
	if err := o.checkAddrs(); err != nil {
		return err
	}
	if err := o.checkNetwork(); err != nil {
		return err
	}
	if o.policy != "" {
		return o.readPolicy()
	}
	return nil
}

func (o *serveOptions) checkURL() error {
	if o.url == "" {
		if o.dev {
			return nil
		}
		return cli.Usagef("--url URL must be given, by which nodes find the server; --dev finds one by itself")
	}
	u, err := url.Parse(o.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return cli.Usagef("--url %q is not a URL with http:// or https:// and a host", o.url)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return cli.Usagef("--url %q must have nothing but scheme, host and port: clients drop the rest", o.url)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && !isPlainName(u.Hostname()) {
		return cli.Usagef("--url %q: %q is neither a host name nor an IP address", o.url, u.Hostname())
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return cli.Usagef("--url %q: %s is not a port", o.url, port)
		}
	}
	o.site = &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	return nil
}

// isPlainName reports whether s is the name of a host. Unlike the name on a certificate it has no
// asterisk.
func isPlainName(s string) bool {
	return cli.IsHostName(s) && !strings.Contains(s, "*") && !strings.Contains("."+s+".", "..")
}

func (o *serveOptions) checkTLS() error {
	if err := o.CheckCertificate(); err != nil {
		return err
	}
	http := o.dev && o.site == nil || o.site != nil && o.site.Scheme == "http"
	switch {
	case http && o.CertificateModes() > 0 && !o.Plain:
		return cli.Usagef("--cert and --acme are for a --url with https://")
	case http && !o.Plain && !o.dev && !isPrivateHost(o.site.Hostname()):
		return cli.Usagef(
			"--url %s: plain HTTP is for loopback and private addresses; use https://, or say --plain if it must be", o.url)
	case http:
		o.how = tlsForRelay
	case o.Plain:
		o.how = tlsElsewhere
	case o.Cert != "":
		o.how = tlsFiles
		if _, err := tls.LoadX509KeyPair(o.Cert, o.Key); err != nil {
			return cli.Usagef("--cert %s and --key %s: %w", o.Cert, o.Key, err)
		}
	case o.ACME:
		o.how = tlsACME
		if _, err := netip.ParseAddr(o.site.Hostname()); err == nil {
			return cli.Usagef("--acme needs a host name in --url, not an IP address")
		}
	}
	return nil
}

// isPrivateHost reports whether clients accept plain HTTP to a host (control specification, section
// 1.4).
func isPrivateHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && (addr.Unmap().IsLoopback() || addr.Unmap().IsPrivate())
}

// sitePort is the port of a server's URL.
func sitePort(u *url.URL) int {
	if port := u.Port(); port != "" {
		n, _ := strconv.Atoi(port) // checked with the URL
		return n
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

// siteListen returns the default listen address for a URL: on loopback if the host of the URL is,
// and otherwise on all addresses of the machine.
func siteListen(u *url.URL) string {
	return net.JoinHostPort(loopbackHost(u), strconv.Itoa(sitePort(u)))
}

// loopbackHost returns the host of a URL if it is loopback, and otherwise nothing.
func loopbackHost(u *url.URL) string {
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback() {
		return host
	}
	return ""
}

// defaultSTUN returns the default address of the STUN server. It is on the host of the URL, where
// nodes look for it.
func (o *serveOptions) defaultSTUN() string {
	if o.site == nil {
		return net.JoinHostPort("", defaultSTUNPort)
	}
	return net.JoinHostPort(loopbackHost(o.site), defaultSTUNPort)
}

// checkAddrs sets and checks the addresses to listen on. With --dev those that are not given stay
// empty.
func (o *serveOptions) checkAddrs() error {
	if o.Listen == "" && !o.dev {
		o.Listen = siteListen(o.site)
		if o.how == tlsElsewhere {
			o.Listen = proxiedListen
		}
	}
	if o.STUN == "" && !o.dev {
		o.STUN = o.defaultSTUN()
	}
	return o.CheckAddrs()
}

// checkNetwork looks at what nodes are told.
func (o *serveOptions) checkNetwork() (err error) {
	o.baseDomain = strings.ToLower(strings.Trim(o.baseDomain, "."))
	if !isPlainName(o.baseDomain) || strings.Contains(o.baseDomain, "_") {
		return cli.Usagef("--base-domain %q is not a domain", o.baseDomain)
	}
	if o.site != nil && strings.HasSuffix("."+o.site.Hostname(), "."+o.baseDomain) {
		return cli.Usagef(
			"--base-domain %s: the server's own name %s is in it, and nodes would look for that among themselves; "+
				"use another, or a domain below it",
			o.baseDomain, o.site.Hostname())
	}
	if o.ephemeralTimeout.Value == 0 {
		return cli.Usagef("--ephemeral-timeout %s: want a positive duration", o.ephemeralTimeout.Text)
	}
	if o.names, err = o.dnsSettings(); err != nil {
		return err
	}
	if o.derpMap != "" {
		o.relays, err = o.readDERPMap()
		return err
	}
	if !o.embedded.Value {
		return cli.Usagef("--relay none needs --derp-map: nodes cannot find each other without any relay")
	}
	return nil
}

// stateDir returns the directory of the network. With --dev it is a temporary one if the
// environment has no place for it.
func (o *serveOptions) stateDir(p cli.Program) (dir string, temporary bool, err error) {
	switch dir = cmp.Or(o.State, defaultControlState(p)); {
	case dir == statedir.Memory:
		return "", false, cli.Usagef("--state %s: a coordination server needs a directory for its network", statedir.Memory)
	case dir != "":
		return dir, false, nil
	case !o.dev:
		return "", false, errNoControlState
	}
	dir, err = os.MkdirTemp("", "ginnel-control-")
	return dir, true, err
}

var errNoControlState = cli.Usagef("--state DIR must be given: neither XDG_STATE_HOME nor HOME is set")

// defaultControlState returns the state directory of a server for which none is named. It is empty
// if the environment has no place for it.
func defaultControlState(p cli.Program) string { return statedir.DefaultBeside(p, "ginnel-control") }

// hostOf returns the host of an address, or nothing if that is unspecified.
func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return ""
	}
	return host
}
