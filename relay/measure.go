package relay

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"
)

// latencyPath is a page that every relay answers at once with an empty body.
const latencyPath = "/derp/latency-check"

// Measurement is how a relay answered over HTTP.
type Measurement struct {
	Latency    time.Duration // of one request on a connection that is open already
	RemoteAddr netip.AddrPort
}

// Measure requests a page from the first relay of a region that answers. It measures the latency
// when UDP is blocked. It does not log in, so cfg needs no Key.
func Measure(ctx context.Context, r *Region, cfg ClientConfig) (m Measurement, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, t, err := dialAny(ctx, &cfg, nodeTargets(r))
	if err != nil {
		return m, err
	}
	defer conn.Close()
	m.RemoteAddr = addrPortOf(conn.RemoteAddr())
	defer context.AfterFunc(ctx, closer(conn))()
	if !t.plain {
		tc := tls.Client(conn, newVerifier(t, cfg.Roots).config())
		if err := tc.HandshakeContext(ctx); err != nil {
			return m, fmt.Errorf("measuring relay %s: setting up TLS: %w", t.hostHeader(), err)
		}
		conn = tc
	}
	start := time.Now()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ginnel\r\nConnection: close\r\n\r\n",
		latencyPath, t.hostHeader())
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxUpgradeAnswer)), nil)
	}
	if err != nil {
		return m, fmt.Errorf("measuring relay %s: %w", t.hostHeader(), printableError{cmp.Or(ctx.Err(), err)})
	}
	m.Latency = time.Since(start)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return m, fmt.Errorf("measuring relay %s: the answer was %s", t.hostHeader(), excerpt(resp.Status))
	}
	return m, nil
}
