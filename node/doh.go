package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

const (
	dnsMessageType = "application/dns-message" // RFC 8484, section 6
	maxDNSMessage  = 64 << 10
	dohIdle        = 30 * time.Second // how long an idle connection is kept for further queries
)

// dohClient asks the DNS servers that have a URL.
type dohClient struct {
	d    *dialer
	http http.Client
}

func newDoHClient(d *dialer) *dohClient {
	c := &dohClient{d: d}
	c.http = http.Client{
		Transport: &http.Transport{
			DialContext:            c.dial,
			TLSClientConfig:        &tls.Config{RootCAs: d.cfg.Roots},
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        dohIdle,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// post is resolver.Resolver.Post.
func (c *dohClient) post(ctx context.Context, url string, query []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", dnsMessageType)
	req.Header.Set("Accept", dnsMessageType)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, errors.Unwrap(err) // url.Error has the URL, which the caller adds too
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != dnsMessageType {
		return nil, fmt.Errorf("the server answers %s and the content type %q, not %s", resp.Status, kind, dnsMessageType)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDNSMessage+1))
	if err == nil && len(b) > maxDNSMessage {
		err = fmt.Errorf("the answer has more than %d bytes", maxDNSMessage)
	}
	return b, err
}

// dial connects to the host of a server's URL.
func (c *dohClient) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is not a port", portText)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return c.d.dialAddr(ctx, network, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	addrs, err := c.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return c.d.race(ctx, network, c.d.preferred(addrs), uint16(port))
}

// lookup resolves the host of a server's URL. The map may have its addresses. Otherwise the host's
// resolver is asked, or, if traffic leaves by an exit node, the map's servers that have an address.
func (c *dohClient) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	cfg := &c.d.plane.netmap.Load().DNS
	if addrs := cfg.Bootstrap[hostName(host)]; len(addrs) > 0 {
		return addrs, nil
	}
	if !c.d.cfg.wantsExit() {
		if err := c.d.mayLeave(netip.Addr{}); err != nil {
			return nil, err
		}
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	known := slices.DeleteFunc(slices.Clone(cfg.Servers), func(s Nameserver) bool { return !s.addr().IsValid() })
	return c.d.askServers(ctx, host, known)
}
