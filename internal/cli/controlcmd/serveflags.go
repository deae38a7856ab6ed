package controlcmd

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ginnel/control"
	"ginnel/internal/cli"
	"ginnel/internal/cli/statedir"
)

// controlFlags are the flags of control serve.
type controlFlags struct {
	config, state         string
	url                   string
	dev                   bool
	listen, stun, metrics string
	baseDomain            string
	policy                string
	cert, key             string
	acme                  bool
	acmeEmail             string
	plain                 bool
	dns                   cli.Parsed[[]netip.Addr]
	dnsConfig             string
	ephemeralTimeout      cli.Parsed[time.Duration]
	nodeExpiry            cli.Parsed[time.Duration]
	embedded              cli.Parsed[bool] // the relay
	derpMap               string
	log                   cli.LogFlags

	// What check made of them.
	site       *url.URL // nil with --dev until the port is known
	how        tlsMode
	policyText []byte
	relays     control.DERPMap   // of --derp-map
	names      control.DNSConfig // of --dns or --dns-config
}

// tlsMode is how the port is protected.
type tlsMode int

const (
	tlsSelfSigned tlsMode = iota
	tlsFiles
	tlsACME
	tlsElsewhere // something in front does it
	tlsForRelay  // plain HTTP, but for the relay's clients, who want TLS
)

const (
	defaultBaseDomain = "ginnel.internal"
	defaultSTUNPort   = "3478"
	devListen         = ":8080"
	proxiedListen     = "127.0.0.1:8080"
)

func newControlFlags() *controlFlags {
	return &controlFlags{
		dns:              cli.Parsed[[]netip.Addr]{Parse: parseAddrs, Kind: "ip,..."},
		ephemeralTimeout: cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration", Text: "60s", Value: time.Minute},
		nodeExpiry:       cli.Parsed[time.Duration]{Parse: parseLifetime, Kind: "duration", Text: "0"},
		embedded:         cli.Parsed[bool]{Parse: parseEmbedded, Kind: "kind", Text: "embedded", Value: true},
	}
}

func (f *controlFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&f.url, "url", "", "`URL` by which nodes find the server")
	fs.BoolVar(&f.dev, "dev", false, "need no other flag, and print the line with which another machine joins")
	fs.StringVar(&f.state, "state", "", "`dir`ectory of the network and its keys (ginnel-control beside the node's)")
	fs.StringVar(&f.listen, "listen", "", "TCP `addr`ess of server and relay (the URL's port, on loopback if the URL is; 127.0.0.1:8080 for --plain with an https URL)")
	fs.StringVar(&f.stun, "stun", "", "UDP `addr`ess of the STUN server, or none (:3478, on loopback if the URL is)")
	fs.StringVar(&f.metrics, "metrics", "none", "TCP `addr`ess of a page with Prometheus metrics, or none")
	fs.StringVar(&f.baseDomain, "base-domain", defaultBaseDomain, "`domain` that the nodes' names are in")
	fs.StringVar(&f.policy, "policy", "", "HuJSON `file` that says who may reach whom (without a policy, everybody everybody)")
	fs.StringVar(&f.cert, "cert", "", "`file` with the certificate chain, PEM")
	fs.StringVar(&f.key, "key", "", "`file` with its private key, PEM")
	fs.BoolVar(&f.acme, "acme", false, "get a certificate from Let's Encrypt for the URL's host")
	fs.StringVar(&f.acmeEmail, "acme-email", "", "`address` that Let's Encrypt may write to")
	fs.BoolVar(&f.plain, "plain", false, "no TLS, for use behind something that does it")
	fs.Var(&f.dns, "dns", "`addr`esses of the DNS servers that all nodes are to use, separated by commas")
	fs.StringVar(&f.dnsConfig, "dns-config", "",
		"YAML `file` with DNS settings for all nodes: nameservers, split DNS, search domains, records")
	fs.Var(&f.ephemeralTimeout, "ephemeral-timeout", "how long after it was last heard an ephemeral node is removed")
	fs.Var(&f.nodeExpiry, "node-expiry", "how long a node without tags may stay before it has to log in again, such as 180d (0: for ever)")
	fs.Var(&f.embedded, "relay", "`kind` of relay: embedded, or none if --derp-map names others")
	fs.StringVar(&f.derpMap, "derp-map", "", "JSON `file` with the DERP map of further relays")
	f.log.Add(fs)
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

// longestDays bounds durations: nobody means more, and a time.Duration cannot hold much more.
const longestDays = 100 * 365

// parseLifetime reads a duration; of days too, which keys are good for.
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
		return 0, tooLong(s) // the form is good
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

// check looks at what single flags cannot know, reads the files that must be good before anything
// starts, and settles what was left open.
func (f *controlFlags) check() error {
	if err := f.checkURL(); err != nil {
		return err
	}
	if err := f.checkTLS(); err != nil {
		return err
	}
	if err := f.checkAddrs(); err != nil {
		return err
	}
	if err := f.checkNetwork(); err != nil {
		return err
	}
	if f.policy != "" {
		return f.readPolicy()
	}
	return nil
}

func (f *controlFlags) checkURL() error {
	if f.url == "" {
		if f.dev {
			return nil
		}
		return cli.Usagef("--url URL must be given, by which nodes find the server; --dev finds one by itself")
	}
	u, err := url.Parse(f.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return cli.Usagef("--url %q is not a URL with http:// or https:// and a host", f.url)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return cli.Usagef("--url %q must have nothing but scheme, host and port: clients drop the rest", f.url)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && !isPlainName(u.Hostname()) {
		return cli.Usagef("--url %q: %q is neither a host name nor an IP address", f.url, u.Hostname())
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return cli.Usagef("--url %q: %s is not a port", f.url, port)
		}
	}
	f.site = &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	return nil
}

// isPlainName accepts the names of hosts, and not those of certificates.
func isPlainName(s string) bool {
	return cli.IsHostName(s) && !strings.Contains(s, "*") && !strings.Contains("."+s+".", "..")
}

func (f *controlFlags) checkTLS() error {
	modes := 0
	for _, on := range []bool{f.cert != "" || f.key != "", f.acme, f.plain} {
		if on {
			modes++
		}
	}
	http := f.dev && f.site == nil || f.site != nil && f.site.Scheme == "http"
	switch {
	case modes > 1:
		return cli.Usagef("--cert with --key, --acme and --plain exclude each other")
	case (f.cert == "") != (f.key == ""):
		return cli.Usagef("--cert and --key must be given together")
	case f.acmeEmail != "" && !f.acme:
		return cli.Usagef("--acme-email is only for --acme")
	case http && modes > 0 && !f.plain:
		return cli.Usagef("--cert and --acme are for a --url with https://")
	case http && !f.plain && !f.dev && !isPrivateHost(f.site.Hostname()):
		return cli.Usagef("--url %s: plain HTTP is for loopback and private addresses; use https://, or say --plain if it must be", f.url)
	case http:
		f.how = tlsForRelay
	case f.plain:
		f.how = tlsElsewhere
	case f.cert != "":
		f.how = tlsFiles
		if _, err := tls.LoadX509KeyPair(f.cert, f.key); err != nil {
			return cli.Usagef("--cert %s and --key %s: %w", f.cert, f.key, err)
		}
	case f.acme:
		f.how = tlsACME
		if _, err := netip.ParseAddr(f.site.Hostname()); err == nil {
			return cli.Usagef("--acme needs a host name in --url, not an IP address")
		}
	}
	return nil
}

// isPrivateHost reports whether clients take plain HTTP to a host for good (control specification,
// section 1.4).
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

// siteListen is where a server of this URL listens: where its host is for loopback, which nobody
// else is told of, and at all of the machine's addresses otherwise.
func siteListen(u *url.URL) string {
	return net.JoinHostPort(loopbackHost(u), strconv.Itoa(sitePort(u)))
}

// loopbackHost is the host of a URL that leads nowhere but to this machine; empty for others.
func loopbackHost(u *url.URL) string {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback() {
		return host
	}
	return ""
}

// defaultSTUN is beside the port: nodes look for it at the host of the URL.
func (f *controlFlags) defaultSTUN() string {
	if f.site == nil {
		return net.JoinHostPort("", defaultSTUNPort)
	}
	return net.JoinHostPort(loopbackHost(f.site), defaultSTUNPort)
}

// checkAddrs looks at what is listened on. With --dev, what is not given stays empty.
func (f *controlFlags) checkAddrs() (err error) {
	if f.listen == "" && !f.dev {
		f.listen = siteListen(f.site)
		if f.how == tlsElsewhere {
			f.listen = proxiedListen
		}
	}
	if f.stun == "" && !f.dev {
		f.stun = f.defaultSTUN()
	}
	for _, a := range []struct {
		flag  string
		value *string
	}{{"listen", &f.listen}, {"stun", &f.stun}, {"metrics", &f.metrics}} {
		if *a.value == "" || *a.value == "none" && a.flag != "listen" {
			continue
		}
		if *a.value, err = cli.ListenAddr(*a.value); err != nil {
			return cli.Usagef("--%s: %w", a.flag, err)
		}
	}
	return nil
}

// checkNetwork looks at what nodes are told.
func (f *controlFlags) checkNetwork() (err error) {
	f.baseDomain = strings.ToLower(strings.Trim(f.baseDomain, "."))
	if !isPlainName(f.baseDomain) || strings.Contains(f.baseDomain, "_") {
		return cli.Usagef("--base-domain %q is not a domain", f.baseDomain)
	}
	if f.site != nil && strings.HasSuffix("."+f.site.Hostname(), "."+f.baseDomain) {
		return cli.Usagef("--base-domain %s: the server's own name %s is in it, and nodes would look for that among themselves; use another, or a domain below it",
			f.baseDomain, f.site.Hostname())
	}
	if f.ephemeralTimeout.Value == 0 {
		return cli.Usagef("--ephemeral-timeout %s: a positive duration is wanted", f.ephemeralTimeout.Text)
	}
	if f.names, err = f.dnsSettings(); err != nil {
		return err
	}
	if f.derpMap != "" {
		f.relays, err = f.readDERPMap()
		return err
	}
	if !f.embedded.Value {
		return cli.Usagef("--relay none needs --derp-map: nodes cannot find each other without any relay")
	}
	return nil
}

// stateDir is the directory of the network; temporary if the environment has no place for one and
// --dev allows that.
func (f *controlFlags) stateDir(p cli.Program) (dir string, temporary bool, err error) {
	switch dir = cmp.Or(f.state, defaultControlState(p)); {
	case dir == statedir.Memory:
		return "", false, cli.Usagef("--state %s: a coordination server needs a directory for its network", statedir.Memory)
	case dir != "":
		return dir, false, nil
	case !f.dev:
		return "", false, errNoControlState
	}
	dir, err = os.MkdirTemp("", "ginnel-control-")
	return dir, true, err
}

var errNoControlState = cli.Usagef("--state DIR must be given: neither XDG_STATE_HOME nor HOME is set")

// defaultControlState is where a server is looked for if no directory is named; empty if there is
// no place for one.
func defaultControlState(p cli.Program) string {
	dir := statedir.Default(p)
	if dir == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(dir), "ginnel-control")
}

// hostOf is the host of an address, empty for all of the machine's.
func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return ""
	}
	return host
}
