package wireguard

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/share"
)

// The goroutine that receives a handshake message decides whether runHandshakes sees it, because
// each one costs runHandshakes a multiplication on the curve (section 5.3). A message without a
// valid MAC1 comes from a sender that does not know our public key: it is dropped and does not
// count against a rate limit. The other messages are admitted up to a rate per source and a total
// rate. Above them we are under load: the sender gets a cookie reply. With a valid MAC2 it proves
// that it receives at its source address, and has a second, lower rate.

const (
	// totalRate messages a second, one multiplication each, take less than a tenth of a processor.
	// totalBurst is made for a restarted node to which all peers send an initiation at once.
	totalRate, totalBurst = 1000, 1024

	// sourceRate and sourceBurst limit one source. A whole site, whose router was restarted, may be
	// behind one address.
	sourceRate, sourceBurst = 200, 256

	// cookieRate and cookieBurst limit the messages with a valid MAC2 of one source under load.
	// They are the limits of other implementations.
	cookieRate, cookieBurst = 20, 5

	// maxSources limits how many sources are remembered. Above it all are forgotten. An attacker
	// that forges more source addresses is held back by totalRate.
	maxSources = 4096
)

// verdict is the decision about a handshake message.
type verdict int

const (
	admitted    verdict = iota
	needsCookie         // answer with a cookie reply
	refused
)

// admission holds the rate limits of handshake messages. Any goroutine may use it.
type admission struct {
	total      *rate.Limiter
	perSource  sourceLimits
	withCookie sourceLimits
}

func (a *admission) init() {
	a.total = rate.NewLimiter(totalRate, totalBurst)
	a.perSource.limit, a.perSource.burst = sourceRate, sourceBurst
	a.withCookie.limit, a.withCookie.burst = cookieRate, cookieBurst
}

// judge decides about an initiation or a response with a valid MAC1.
func (a *admission) judge(id *identity, b []byte, from conn.Endpoint, now time.Time) verdict {
	source := share.SourceOf(from.DstIP())
	if a.perSource.allow(source, now) && a.total.AllowN(now, 1) {
		return admitted
	}
	if !id.cookies.CheckMAC2(b, from.DstToBytes()) {
		return needsCookie
	}
	if !a.withCookie.allow(source, now) {
		return refused
	}
	return admitted
}

// judgeCookieReply decides about a cookie reply, which has no MACs.
func (a *admission) judgeCookieReply(from conn.Endpoint, now time.Time) verdict {
	if a.perSource.allow(share.SourceOf(from.DstIP()), now) {
		return admitted
	}
	return refused
}

// sourceLimits limits the rate of each source separately.
type sourceLimits struct {
	limit rate.Limit
	burst int

	mu       sync.Mutex
	limiters map[netip.Prefix]*rate.Limiter
}

func (s *sourceLimits) allow(source netip.Prefix, now time.Time) bool {
	s.mu.Lock()
	l := s.limiters[source]
	if l == nil {
		if s.limiters == nil || len(s.limiters) >= maxSources {
			s.limiters = make(map[netip.Prefix]*rate.Limiter)
		}
		l = rate.NewLimiter(s.limit, s.burst)
		s.limiters[source] = l
	}
	s.mu.Unlock()
	return l.AllowN(now, 1)
}

// admitHandshake queues a handshake message or a cookie reply for runHandshakes, or drops it.
func (in *inbound) admitHandshake(b []byte) {
	d, id := in.d, in.d.self.Load()
	if !in.isForUs(id, b) {
		d.bogus.Add(1)
		return
	}
	v := refused
	if messageType(b) == typeCookieReply {
		v = d.admission.judgeCookieReply(in.from, time.Now())
	} else {
		v = d.admission.judge(id, b, in.from, time.Now())
	}
	queued := v == admitted && d.requests.queueMessage(b, in.from) ||
		v == needsCookie && d.requests.queueCookie(b, in.from)
	if !queued {
		d.noRoom.Add(1)
	}
}

// isForUs reports whether an initiation has a valid MAC1, whether a response also refers to an
// initiation of ours, and whether a cookie reply refers to a message of ours.
func (in *inbound) isForUs(id *identity, b []byte) bool {
	switch messageType(b) {
	case typeInitiation:
		return in.mac1.valid(id, b)
	case typeResponse:
		receiver := binary.LittleEndian.Uint32(b[responseReceiver:])
		return in.d.indices.get(receiver).peer != nil && in.mac1.valid(id, b)
	}
	return in.d.indices.get(binary.LittleEndian.Uint32(b[cookieReplyReceiver:])) != indexEntry{}
}
