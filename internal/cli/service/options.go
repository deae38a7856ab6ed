package service

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"ginnel/internal/cli"
	relayserver "ginnel/relay/server"
)

// Options are those that every server has.
type Options struct {
	Config, State         string
	Listen, STUN, Metrics string
	Cert, Key             string
	ACME                  bool
	ACMEEmail             string
	Plain                 bool
	Log                   cli.LogFlags
}

// Usage is the help for options that mean something else for each server.
type Usage struct{ State, Listen, STUN, ACME string }

// Add adds the flags. Their defaults are the values that the options have.
func (o *Options) Add(fs *pflag.FlagSet, usage Usage) {
	fs.StringVar(&o.Config, "config", "", "YAML `file` with settings by the names of these flags")
	fs.StringVar(&o.State, "state", "", usage.State)
	fs.StringVar(&o.Listen, "listen", o.Listen, usage.Listen)
	fs.StringVar(&o.STUN, "stun", o.STUN, usage.STUN)
	fs.StringVar(&o.Metrics, "metrics", "none", "TCP `addr`ess of a page with Prometheus metrics, or none")
	fs.StringVar(&o.Cert, "cert", "", "`file` with the certificate chain, PEM")
	fs.StringVar(&o.Key, "key", "", "`file` with its private key, PEM")
	fs.BoolVar(&o.ACME, "acme", false, usage.ACME)
	fs.StringVar(&o.ACMEEmail, "acme-email", "", "`address` that Let's Encrypt may write to")
	fs.BoolVar(&o.Plain, "plain", false, "no TLS, for use behind a program that terminates it")
	o.Log.Add(fs)
}

// CertificateModes counts the ways to a certificate that were chosen. None means a self-signed one.
func (o *Options) CertificateModes() (n int) {
	for _, on := range []bool{o.Cert != "" || o.Key != "", o.ACME, o.Plain} {
		if on {
			n++
		}
	}
	return n
}

// CheckCertificate makes sure that there is one way to a certificate at most.
func (o *Options) CheckCertificate() error {
	switch {
	case o.CertificateModes() > 1:
		return cli.Usagef("--cert with --key, --acme and --plain exclude each other")
	case (o.Cert == "") != (o.Key == ""):
		return cli.Usagef("--cert and --key must be given together")
	case o.ACMEEmail != "" && !o.ACME:
		return cli.Usagef("--acme-email is only for --acme")
	}
	return nil
}

// CheckAddrs checks the addresses to listen on, and writes them in one form. Only Listen may not be
// none; what is empty stays so.
func (o *Options) CheckAddrs() error {
	if err := CheckAddr("listen", &o.Listen); err != nil {
		return err
	}
	if o.STUN != "none" {
		if err := CheckAddr("stun", &o.STUN); err != nil {
			return err
		}
	}
	if o.Metrics != "none" {
		return CheckAddr("metrics", &o.Metrics)
	}
	return nil
}

// CheckAddr checks the address of a flag unless it is empty, and writes it in one form.
func CheckAddr(flag string, addr *string) (err error) {
	if *addr == "" {
		return nil
	}
	if *addr, err = cli.ListenAddr(*addr); err != nil {
		return cli.Usagef("--%s: %w", flag, err)
	}
	return nil
}

// FileTLS returns the TLS settings for the certificate in the files of --cert and --key. It warns
// of everything for which clients will refuse the certificate. hosts are the names that clients
// use, given by the flag.
func (o *Options) FileTLS(relay *relayserver.Server, log *slog.Logger, flag string, hosts ...string) (
	*tls.Config, error,
) {
	conf, err := relay.FileTLS(o.Cert, o.Key)
	if err != nil {
		return nil, cli.Usage(err)
	}
	cert, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return relay.TLSConfig(conf), nil // the files were good a moment ago, and will be read again
	}
	if now := time.Now(); now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
		log.Warn("the certificate is not valid now; clients will refuse it", "file", o.Cert,
			"not_before", cert.Leaf.NotBefore, "not_after", cert.Leaf.NotAfter)
	}
	for _, h := range hosts {
		if err := cert.Leaf.VerifyHostname(h); err != nil {
			log.Warn("the certificate is not for the server's name; clients will refuse it", "file", o.Cert,
				"flag", "--"+flag, "err", err)
		}
	}
	return relay.TLSConfig(conf), nil
}
