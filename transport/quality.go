package transport

import (
	"time"

	"ginnel/key"
)

// Traffic is what the TCP connections to a peer have carried since the last report, as the sender
// counts it.
type Traffic struct {
	Key       key.NodePublic
	Packets   int           // sent, retransmissions included
	Lost      int           // of Packets
	Delivered int           // bytes that the peer has acknowledged
	Interval  time.Duration // since the last report
}

const (
	lossyPath    = 0.05 // share of lost packets from which a direct path is compared with the relay
	enoughSent   = 100  // packets that a report needs to count
	lossyReports = 3    // surplus of reports of a lossy path before the relay is tried
	trialReports = 5    // of a trial; during the first two, connections adapt their rate

	// relayGain is by what factor the relay must carry more to be used. It costs the bandwidth of its
	// operator and usually latency.
	relayGain = 1.5

	firstRecheck = time.Minute // until a decision is checked again; doubled each time it is confirmed
	lastRecheck  = 16 * time.Minute

	// bulkOver is how long after the last report the bulk transfer counts as ended. For the little
	// traffic that remains the direct path is better, because it is shorter.
	bulkOver = 10 * time.Second
)

// preference says which of direct path and relay is used when both work.
type preference uint8

const (
	preferDirect preference = iota
	tryRelay                // a trial, to compare
	preferRelay
	tryDirect // a trial, to compare
)

// quality compares the relay with a direct path that works but loses many packets. If the relay
// carries more by the factor relayGain, it is used. Neither loss nor latency alone predicts that,
// so quality tries both. Like path, it has no clock.
//
//	               lossy for a while                 carries more
//	preferDirect ───────────────────► tryRelay ──────────────────► preferRelay
//	     ▲  ▲                             │                          │   ▲
//	     │  └─────────────────────────────┘                 recheck  │   │ relay carries more
//	     │            carries no more                                ▼   │
//	     └────────────────────────────────────────────────────── tryDirect
type quality struct {
	prefers preference
	lossy   int           // reports of a lossy path minus reports of a good one
	reports int           // of the present trial
	rates   [2]float64    // last measured, in bytes a second: direct, relay
	recheck time.Duration // how long the present decision holds
	until   time.Time     // when the present decision may be checked again
	heard   time.Time     // when the last report came that counts
}

const (
	directRate = iota
	relayRate
)

// relayed reports whether packets are to take the relay.
func (q *quality) relayed() bool { return q.prefers == tryRelay || q.prefers == preferRelay }

// reset forgets everything, because the direct path has changed or is gone.
func (q *quality) reset() { *q = quality{} }

// report takes the traffic of the last interval. It reports whether packets take another path now.
func (q *quality) report(now time.Time, t *Traffic) (changed bool) {
	if t.Packets < enoughSent {
		return false // an idle connection proves nothing, and a trial waits for traffic
	}
	q.heard = now
	before := q.relayed()
	switch q.prefers {
	case preferDirect:
		q.watch(now, t)
	case tryRelay:
		if q.measured(relayRate, t) {
			q.decide(now, q.rates[relayRate] >= relayGain*q.rates[directRate])
		}
	case preferRelay:
		q.rates[relayRate] = rateOf(t)
		if now.After(q.until) {
			q.prefers, q.reports = tryDirect, 0
		}
	case tryDirect:
		if q.measured(directRate, t) {
			q.decide(now, q.rates[relayRate] >= relayGain*q.rates[directRate])
		}
	}
	return q.relayed() != before
}

// rest returns to the direct path when the bulk transfer has ended. The next one that meets losses
// takes the relay after one report.
func (q *quality) rest(now time.Time) {
	if q.relayed() && now.Sub(q.heard) > bulkOver {
		q.prefers, q.lossy, q.until = preferDirect, lossyReports-1, now
	}
}

// watch counts reports of the direct path while it is used.
func (q *quality) watch(now time.Time, t *Traffic) {
	if float64(t.Lost) < lossyPath*float64(t.Packets) {
		q.lossy = max(q.lossy-1, 0)
		return
	}
	q.rates[directRate] = rateOf(t)
	if q.lossy++; q.lossy >= lossyReports && now.After(q.until) {
		q.prefers, q.reports, q.lossy = tryRelay, 0, 0
	}
}

// measured takes one report of a trial and reports whether it was the last.
func (q *quality) measured(way int, t *Traffic) bool {
	q.reports++
	if q.reports <= 2 {
		q.rates[way] = 0
		return false
	}
	q.rates[way] = max(q.rates[way], rateOf(t))
	return q.reports == trialReports
}

// decide ends a trial. A decision that is confirmed holds longer each time.
func (q *quality) decide(now time.Time, relay bool) {
	next, confirmed := preferDirect, q.prefers == tryRelay
	if relay {
		next, confirmed = preferRelay, q.prefers == tryDirect
	}
	if confirmed {
		q.recheck = min(max(2*q.recheck, firstRecheck), lastRecheck)
	} else {
		q.recheck = firstRecheck
	}
	q.prefers, q.until = next, now.Add(q.recheck)
}

func rateOf(t *Traffic) float64 {
	return float64(t.Delivered) / max(t.Interval, time.Millisecond).Seconds()
}

// Report passes on what the connections to peers have carried, about once a second while they carry
// much. It does not wait.
func (c *Conn) Report(all []Traffic) { c.tell(report(all)) }

// report is a message to the loop.
type report []Traffic

func (l *loop) handleReport(now time.Time, all report) {
	for i := range all {
		t := &all[i]
		p := l.peers[t.Key]
		if p == nil || p.Region == 0 || l.c.cfg.Relay == nil || !p.path.trusted(now) {
			continue
		}
		if p.quality.report(now, t) {
			l.c.log.Debug("compared the direct path with the relay", "peer", p.Key, "relay", p.quality.relayed(),
				"direct_bytes_per_s", int(p.quality.rates[directRate]), "relay_bytes_per_s", int(p.quality.rates[relayRate]))
			l.publish(now, p)
		}
	}
}
