package relaycmd

import (
	"math"
	"net/netip"
	"net/url"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/service"
)

// serveOptions are the flags of relay serve.
type serveOptions struct {
	service.Options
	http      string
	hostnames []string
	mesh      meshOptions
	clients   clientOptions
	accept    acceptOptions
	admission admissionOptions
}

// meshOptions name the other relays of the region.
type meshOptions struct {
	key  string
	with []string
}

// clientOptions bound what clients may take.
type clientOptions struct {
	most        int
	rate, burst cli.Parsed[int64] // of bytes
	queueMemory cli.Parsed[int64]
}

// acceptOptions bound how fast connections are accepted.
type acceptOptions struct {
	rate  float64
	burst int
}

// admissionOptions name who decides which clients may connect.
type admissionOptions struct {
	url    string
	strict bool
}

func (o *serveOptions) addFlags(fs *pflag.FlagSet) {
	o.Listen, o.STUN = ":443", ":3478"
	o.Add(fs, service.Usage{
		State:  "`dir`ectory for keys and certificates (ginnel-relay beside the node's)",
		Listen: "TCP `addr`ess of the relay",
		STUN:   "UDP `addr`ess of the STUN server, or none",
		ACME:   "get certificates from Let's Encrypt for each --hostname",
	})
	size := func(v *cli.Parsed[int64], name, usage string) {
		*v = cli.Parsed[int64]{Parse: configs.ParseSize, Kind: "size"}
		fs.Var(v, name, usage)
	}
	fs.StringVar(&o.http, "http", "",
		"TCP `addr`ess for plain HTTP: ACME, captive portal checks, redirects (:80 with --acme, otherwise none)")
	fs.StringArrayVar(&o.hostnames, "hostname", nil,
		"`name` or IP address on the certificate; repeatable (this host's name)")
	fs.StringVar(&o.mesh.key, "mesh-key", "", "`key` shared by the relays of a region, 64 hex digits or file:PATH")
	fs.StringArrayVar(&o.mesh.with, "mesh-with", nil, "`host` of another relay of the region; repeatable")
	fs.IntVar(&o.clients.most, "max-clients", 60000,
		"`number` of clients at a time; then the address that has most gives way")
	size(&o.clients.rate, "client-rate", "`size` of what is read from each client in a second (no limit)")
	size(&o.clients.burst, "client-burst", "`size` of what each client may send at once above --client-rate")
	size(&o.clients.queueMemory, "queue-memory", "`size` of all that may be queued to slow clients (256MiB)")
	fs.Float64Var(&o.accept.rate, "accept-rate", 0,
		"`number` of connections accepted in a second; further ones are closed (0: no limit)")
	fs.IntVar(&o.accept.burst, "accept-burst", 0, "`number` of connections accepted at once above --accept-rate")
	fs.StringVar(&o.admission.url, "admission-url", "", "`URL` that is asked whether a client may connect")
	fs.BoolVar(&o.admission.strict, "admission-strict", false, "refuse clients while --admission-url does not answer")
}

// check checks what concerns several flags, and sets what follows from others.
func (o *serveOptions) check() error {
	if err := o.CheckCertificate(); err != nil {
		return err
	}
	if o.ACME && len(o.hostnames) == 0 {
		return cli.Usagef("--acme needs --hostname: the name to get a certificate for")
	}
	if o.http == "" && o.ACME {
		o.http = ":80"
	}
	if err := o.checkNames(); err != nil {
		return err
	}
	if err := o.checkLimits(); err != nil {
		return err
	}
	return o.checkAdmission()
}

// checkNames looks at addresses and host names.
func (o *serveOptions) checkNames() error {
	if _, err := cli.ListenAddr(o.Listen); err != nil { // which may not be empty
		return cli.Usagef("--listen: %w", err)
	}
	if err := o.CheckAddrs(); err != nil {
		return err
	}
	if o.http != "none" {
		if err := service.CheckAddr("http", &o.http); err != nil {
			return err
		}
	}
	for _, h := range o.hostnames {
		if _, err := netip.ParseAddr(h); err != nil && !cli.IsHostName(h) {
			return cli.Usagef("--hostname %q is neither a host name nor an IP address", h)
		}
	}
	if len(o.mesh.with) > 0 && o.mesh.key == "" {
		return cli.Usagef("--mesh-with needs --mesh-key")
	}
	return nil
}

// minQueueMemory has room for one packet of the largest size, in bytes.
const minQueueMemory = 64 << 10

func (o *serveOptions) checkLimits() error {
	switch {
	case o.clients.most <= 0:
		return cli.Usagef("--max-clients %d: want a positive number", o.clients.most)
	case !(o.accept.rate >= 0) || math.IsInf(o.accept.rate, 0) || o.accept.burst < 0:
		return cli.Usagef("--accept-rate and --accept-burst are numbers, and not negative")
	case o.accept.burst > 0 && o.accept.rate == 0:
		return cli.Usagef("--accept-burst needs --accept-rate")
	case o.clients.burst.Value > 0 && o.clients.rate.Value == 0:
		return cli.Usagef("--client-burst needs --client-rate")
	case o.clients.queueMemory.Value > 0 && o.clients.queueMemory.Value < minQueueMemory:
		return cli.Usagef("--queue-memory %s is less than one packet may need: 64KiB", o.clients.queueMemory.Text)
	}
	return nil
}

// checkAdmission refuses a URL that can never be asked, because then everybody could connect.
func (o *serveOptions) checkAdmission() error {
	if o.admission.url == "" {
		if o.admission.strict {
			return cli.Usagef("--admission-strict needs --admission-url")
		}
		return nil
	}
	u, err := url.Parse(o.admission.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return cli.Usagef("--admission-url %q is not a URL with http:// or https:// and a host", o.admission.url)
	}
	return nil
}
