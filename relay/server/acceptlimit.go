package server

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"ginnel/internal/share"
)

const (
	acceptSpan = time.Second
	// acceptShare is the part of AcceptBurst that one address may take from the reserve in
	// acceptSpan: a quarter.
	acceptShare = 4
)

// acceptLimit bounds the connections accepted per second. Beside the burst that every address may
// use, there is a reserve of the same size for addresses that have had few connections lately. An
// address that takes all it can get therefore does not lock out the others.
type acceptLimit struct {
	burst int

	mu     sync.Mutex
	bucket *rate.Limiter
	recent share.Rate[netip.Prefix]
}

// newAcceptLimit returns nil if there is no bound.
func newAcceptLimit(cfg *Config) *acceptLimit {
	if cfg.AcceptRate <= 0 {
		return nil
	}
	burst := max(cfg.AcceptBurst, 1)
	every := int(min(cfg.AcceptRate, 1e9)) + 2*burst + 1 // more than are accepted in a span: no bound
	return &acceptLimit{
		burst:  burst,
		bucket: rate.NewLimiter(rate.Limit(cfg.AcceptRate), 2*burst),
		recent: share.Rate[netip.Prefix]{Each: max(burst/acceptShare, 1), All: every, Span: acceptSpan},
	}
}

// allow reports whether to accept a connection. A nil limit allows all.
func (l *acceptLimit) allow(now time.Time, conn net.Conn) bool {
	if l == nil {
		return true
	}
	source := share.SourceOfHost(conn.RemoteAddr().String())
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.bucket.TokensAt(now)
	if left < 1 {
		return false
	}
	modest := l.recent.Allow(now, source)
	return (modest || left >= float64(l.burst+1)) && l.bucket.AllowN(now, 1)
}
