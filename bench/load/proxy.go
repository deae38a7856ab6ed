package load

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// ProxyKind is the protocol of a proxy.
type ProxyKind string

// The kinds of proxies.
const (
	Direct  ProxyKind = "direct" // without a proxy
	SOCKS5  ProxyKind = "socks5"
	CONNECT ProxyKind = "connect"
)

// Proxy describes how connections to the service are made.
type Proxy struct {
	Kind ProxyKind
	Addr string // host:port; unused for Direct
	// Congestion is the congestion control of both ends of a Direct connection.
	Congestion Congestion `json:",omitempty"`
}

// handshakeLimit bounds the time to open one connection.
const handshakeLimit = 15 * time.Second

// dial connects to the target through the proxy.
func (p Proxy) dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	return p.dialWithin(ctx, target, handshakeLimit)
}

func (p Proxy) dialWithin(ctx context.Context, target netip.AddrPort, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addr := p.Addr
	if p.Kind == Direct {
		addr = target.String()
	}
	d := net.Dialer{Control: p.Congestion.Control}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := bind(ctx, c)
	switch p.Kind {
	case SOCKS5:
		_, err = askSOCKS5(c, socksConnect, target)
	case CONNECT:
		err = askCONNECT(c, target)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connecting to %s through the proxy: %w", target, err)
	}
	return c, nil
}

// dialRetry dials up to five times, because some proxies refuse connections for a moment under
// load.
func (p Proxy) dialRetry(ctx context.Context, target netip.AddrPort) (c net.Conn, err error) {
	for range 5 {
		if c, err = p.dial(ctx, target); err == nil {
			return c, nil
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// bind makes blocked reads and writes of c fail when the context ends. Stop undoes that; it reports
// false if the context has already ended.
func bind(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}

// open dials and sends a request to the service.
func (p Proxy) open(ctx context.Context, target netip.AddrPort, kind byte, size int) (net.Conn, error) {
	c, err := p.dial(ctx, target)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(request(kind, p.Congestion, size)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// askCONNECT may use a buffered reader because the service never sends first, so no data follow the
// proxy's answer.
func askCONNECT(c net.Conn, target netip.AddrPort) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("proxy answered %q", resp.Status)
	}
	if n := r.Buffered(); n > 0 {
		return fmt.Errorf("proxy sent %d bytes after its answer", n)
	}
	return nil
}
