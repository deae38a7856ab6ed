package relaycmd

import (
	"math"
	"net/netip"
	"net/url"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/internal/cli"
)

// relayFlags are the flags of relay serve.
type relayFlags struct {
	config, state      string
	listen, stun, http string
	metrics            string
	hostnames          []string
	cert, key          string
	acme               bool
	acmeEmail          string
	plain              bool
	meshKey            string
	meshWith           []string
	maxClients         int
	clientRate         cli.Parsed[int64]
	clientBurst        cli.Parsed[int64]
	queueMemory        cli.Parsed[int64]
	acceptRate         float64
	acceptBurst        int
	admissionURL       string
	admissionStrict    bool
	log                cli.LogFlags
}

func (f *relayFlags) add(fs *pflag.FlagSet) {
	size := func(v *cli.Parsed[int64], name, usage string) {
		*v = cli.Parsed[int64]{Parse: configs.ParseSize, Kind: "size"}
		fs.Var(v, name, usage)
	}
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&f.state, "state", "", "`dir`ectory for keys and certificates (ginnel-relay beside the node's)")
	fs.StringVar(&f.listen, "listen", ":443", "TCP `addr`ess of the relay")
	fs.StringVar(&f.stun, "stun", ":3478", "UDP `addr`ess of the STUN server, or none")
	fs.StringVar(&f.http, "http", "", "TCP `addr`ess for plain HTTP: ACME, captive portal checks, redirects (:80 with --acme, otherwise none)")
	fs.StringVar(&f.metrics, "metrics", "none", "TCP `addr`ess of a page with Prometheus metrics, or none")
	fs.StringArrayVar(&f.hostnames, "hostname", nil, "`name` or IP address on the certificate; repeatable (this host's name)")
	fs.StringVar(&f.cert, "cert", "", "`file` with the certificate chain, PEM")
	fs.StringVar(&f.key, "key", "", "`file` with its private key, PEM")
	fs.BoolVar(&f.acme, "acme", false, "get certificates from Let's Encrypt for each --hostname")
	fs.StringVar(&f.acmeEmail, "acme-email", "", "`address` that Let's Encrypt may write to")
	fs.BoolVar(&f.plain, "plain", false, "no TLS, for use behind something that does it")
	fs.StringVar(&f.meshKey, "mesh-key", "", "`key` shared by the relays of a region, 64 hex digits or file:PATH")
	fs.StringArrayVar(&f.meshWith, "mesh-with", nil, "`host` of another relay of the region; repeatable")
	fs.IntVar(&f.maxClients, "max-clients", 60000, "`number` of clients at a time; then the address that has most gives way")
	size(&f.clientRate, "client-rate", "`size` of what is read from each client in a second (no limit)")
	size(&f.clientBurst, "client-burst", "`size` of what each client may send at once above --client-rate")
	size(&f.queueMemory, "queue-memory", "`size` of all that may be queued to slow clients (256MiB)")
	fs.Float64Var(&f.acceptRate, "accept-rate", 0, "`number` of connections accepted in a second; further ones are closed (0: no limit)")
	fs.IntVar(&f.acceptBurst, "accept-burst", 0, "`number` of connections accepted at once above --accept-rate")
	fs.StringVar(&f.admissionURL, "admission-url", "", "`URL` that is asked whether a client may connect")
	fs.BoolVar(&f.admissionStrict, "admission-strict", false, "refuse clients while --admission-url does not answer")
	f.log.Add(fs)
}

// check looks at what single flags cannot know, and settles what one means for another.
func (f *relayFlags) check() error {
	modes := 0
	for _, on := range []bool{f.cert != "" || f.key != "", f.acme, f.plain} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return cli.Usagef("--cert with --key, --acme and --plain exclude each other")
	case (f.cert == "") != (f.key == ""):
		return cli.Usagef("--cert and --key must be given together")
	case f.acme && len(f.hostnames) == 0:
		return cli.Usagef("--acme needs --hostname: the name to get a certificate for")
	case f.acmeEmail != "" && !f.acme:
		return cli.Usagef("--acme-email is only for --acme")
	}
	if f.http == "" && f.acme {
		f.http = ":80"
	}
	if err := f.checkNames(); err != nil {
		return err
	}
	if err := f.checkLimits(); err != nil {
		return err
	}
	return f.checkAdmission()
}

// checkNames looks at addresses and host names.
func (f *relayFlags) checkNames() (err error) {
	for _, a := range []struct {
		flag  string
		value *string
	}{{"listen", &f.listen}, {"stun", &f.stun}, {"http", &f.http}, {"metrics", &f.metrics}} {
		if optional := a.flag != "listen"; optional && (*a.value == "" || *a.value == "none") {
			continue
		}
		if *a.value, err = cli.ListenAddr(*a.value); err != nil {
			return cli.Usagef("--%s: %w", a.flag, err)
		}
	}
	for _, h := range f.hostnames {
		if _, err := netip.ParseAddr(h); err != nil && !cli.IsHostName(h) {
			return cli.Usagef("--hostname %q is neither a host name nor an IP address", h)
		}
	}
	if len(f.meshWith) > 0 && f.meshKey == "" {
		return cli.Usagef("--mesh-with needs --mesh-key")
	}
	return nil
}

// minQueueMemory is room for one packet of full size.
const minQueueMemory = 64 << 10

func (f *relayFlags) checkLimits() error {
	switch {
	case f.maxClients <= 0:
		return cli.Usagef("--max-clients %d: a positive number is wanted", f.maxClients)
	case !(f.acceptRate >= 0) || math.IsInf(f.acceptRate, 0) || f.acceptBurst < 0:
		return cli.Usagef("--accept-rate and --accept-burst are numbers, and not negative")
	case f.acceptBurst > 0 && f.acceptRate == 0:
		return cli.Usagef("--accept-burst needs --accept-rate")
	case f.clientBurst.Value > 0 && f.clientRate.Value == 0:
		return cli.Usagef("--client-burst needs --client-rate")
	case f.queueMemory.Value > 0 && f.queueMemory.Value < minQueueMemory:
		return cli.Usagef("--queue-memory %s is less than one packet may need: 64KiB", f.queueMemory.Text)
	}
	return nil
}

// checkAdmission is strict: a controller that can never be asked would let everybody in.
func (f *relayFlags) checkAdmission() error {
	if f.admissionURL == "" {
		if f.admissionStrict {
			return cli.Usagef("--admission-strict needs --admission-url")
		}
		return nil
	}
	u, err := url.Parse(f.admissionURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return cli.Usagef("--admission-url %q is not a URL with http:// or https:// and a host", f.admissionURL)
	}
	return nil
}
