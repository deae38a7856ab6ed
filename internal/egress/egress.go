// Package egress dials TCP through an outgoing proxy, by HTTP CONNECT or SOCKS5, and finds the
// proxy that the environment names (HTTPS_PROXY and its like).
//
// Host names are passed to the proxy unresolved, because networks that require a proxy often have
// no resolver for them. No error contains the proxy's password. No goroutine outlives a dial.
package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ErrRefused is wrapped by the error of a dial that the proxy answered with a refusal: it demands
// or rejects credentials, forbids the destination, or could not reach it.
var ErrRefused = errors.New("refused by proxy")

var errScheme = errors.New("scheme is none of http, https, socks5 and socks5h")

// Dialer dials through proxies. The zero value is ready for use.
type Dialer struct {
	// DialContext opens the TCP connection to the proxy; nil means that of a net.Dialer. Dial closes
	// the connection if it fails later; otherwise the caller of Dial owns it.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// RootCAs are trusted to sign an https proxy's certificate; nil means the system's.
	RootCAs *x509.CertPool
}

// Dial connects to addr through proxy. addr is host:port, and its host may be a name; the scheme of
// proxy is http, https, socks5 or socks5h. ctx bounds the dial and not the connection; there is no
// other time limit for a silent proxy. The connection has CloseWrite if the one to the proxy has.
func (d *Dialer) Dial(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	conn, err := d.dial(ctx, proxy, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %q through proxy %s: %w", addr, proxyName(proxy), err)
	}
	return conn, nil
}

func (d *Dialer) dial(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	to, err := parseTarget(addr)
	if err != nil {
		return nil, err
	}
	p, ok := protocols[proxy.Scheme]
	if !ok {
		return nil, errScheme
	}
	if proxy.Hostname() == "" {
		return nil, errors.New("proxy has no host")
	}
	raw, err := d.dialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), cmp.Or(proxy.Port(), p.port)))
	if err != nil {
		return nil, err
	}
	// raw is closed, not the TLS connection on it, because Close of that would wait to send an alert.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn, err := p.connect(d.secure(raw, proxy, p.security), proxy.User, to)
	if !stop() {
		err = ctx.Err() // connect failed only because raw was closed
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// dialContext calls DialContext or its default.
func (d *Dialer) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// secure wraps conn in TLS if the scheme of the proxy is https. The handshake happens at the first
// write.
func (d *Dialer) secure(conn net.Conn, proxy *url.URL, s security) net.Conn {
	if s == inClear {
		return conn
	}
	cfg := &tls.Config{ServerName: proxy.Hostname(), RootCAs: d.RootCAs, NextProtos: []string{"http/1.1"}}
	return tls.Client(conn, cfg)
}

// protocol is how to reach and ask a proxy with a URL of one scheme.
type protocol struct {
	port     string // used if the URL has none
	security security
	connect  func(conn net.Conn, user *url.Userinfo, to target) (net.Conn, error)
}

type security int

const (
	inClear security = iota
	overTLS
)

var protocols = map[string]protocol{
	"http":    {"80", inClear, connectHTTP},
	"https":   {"443", overTLS, connectHTTP},
	"socks5":  {"1080", inClear, connectSOCKS5},
	"socks5h": {"1080", inClear, connectSOCKS5}, // as socks5, because names are never resolved here
}

// target is where the proxy is asked to connect to.
type target struct {
	host string
	port uint16
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// parseTarget splits host:port. It refuses hosts that could break out of an HTTP request line, or
// do not fit into a SOCKS5 request (RFC 1928, section 5).
func parseTarget(addr string) (target, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return target{}, errors.New("address is not host:port")
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return target{}, errors.New("port is not a number from 1 to 65535")
	}
	if host == "" || len(host) > 255 || strings.ContainsFunc(host, notInHost) {
		return target{}, errors.New("host is neither an address nor a name")
	}
	return target{host, uint16(port)}, nil
}

func notInHost(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"#%/<>?@\[]^{|}`, r) || r == '`'
}

// proxyName returns the proxy's URL for errors: scheme and host, without user, password and path.
func proxyName(proxy *url.URL) string {
	return fmt.Sprintf("%s://%s", proxy.Scheme, proxy.Host)
}
