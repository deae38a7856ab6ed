// Package egress dials TCP through the proxy that stands between this machine and the world: the
// one that the environment names, spoken to by HTTP CONNECT or SOCKS5.
//
// It starts no goroutine that outlives a dial. Names are passed on unresolved, since behind such a
// proxy there often is no resolver for them. No error holds a proxy's password.
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

// ErrRefused is wrapped by errors for a proxy that was reached, understood the request and turned
// it down: it demands or rejects credentials, forbids the destination or did not reach it.
var ErrRefused = errors.New("refused by proxy")

var errScheme = errors.New("scheme is none of http, https, socks5 and socks5h")

// Dialer dials through proxies. The zero value is ready for use.
type Dialer struct {
	// DialContext opens the TCP connection to the proxy; nil means that of a net.Dialer. Its conn is
	// closed by Dial if it fails, and belongs to Dial's caller otherwise.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// RootCAs are trusted to sign an https proxy's certificate; nil means the system's.
	RootCAs *x509.CertPool
}

// Dial connects to addr through proxy with a zero Dialer.
func Dial(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	return new(Dialer).Dial(ctx, proxy, addr)
}

// Dial connects to addr, a host:port whose host may be a name, through proxy, whose scheme is http,
// https, socks5 or socks5h. The context covers the dial only; until it ends, a silent proxy is
// waited for. The conn has CloseWrite if that to the proxy has.
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
	// Closing the raw conn, not the one over TLS, which would wait to say goodbye.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn, err := p.connect(d.secure(raw, proxy, p.security), proxy.User, to)
	if !stop() {
		err = ctx.Err() // what connect says is but that its conn was closed
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// dialContext resolves the default.
func (d *Dialer) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// secure puts TLS on a conn to the proxy where its scheme wants it; the handshake comes with the
// first write.
func (d *Dialer) secure(conn net.Conn, proxy *url.URL, s security) net.Conn {
	if s == inClear {
		return conn
	}
	return tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), RootCAs: d.RootCAs, NextProtos: []string{"http/1.1"}})
}

// protocol is how a kind of proxy is spoken to.
type protocol struct {
	port     string // unless the URL has one
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
	"socks5h": {"1080", inClear, connectSOCKS5}, // the same: names are never resolved on this side
}

// target is where the proxy is asked to connect to.
type target struct {
	host string
	port uint16
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// parseTarget refuses what could break out of a request line, or does not fit into SOCKS5 (RFC
// 1928, section 5).
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

// proxyName is the proxy as errors show it: without user and password, and whatever follows the
// host.
func proxyName(proxy *url.URL) string {
	return fmt.Sprintf("%s://%s", proxy.Scheme, proxy.Host)
}
