package derp

import (
	"time"

	"ginnel/internal/sys"
)

// A relay forwards what other TCP senders have already paced, so its socket often has nothing left
// to send. Linux calls such a sender application-limited. The kernel's BBR then never leaves
// STARTUP: it sends each burst at 2.9 times the bandwidth of the path, with 2.9 bandwidth-delay
// products in flight, for as long as the connection lasts. Every 10 s it sends almost nothing for
// 200 ms (PROBE_RTT), which delays the relayed traffic. Measured over 66 ms and 300 Mbit/s, with
// one connection between two nodes at a time, rates in Mbit/s:
//
//	                       down  up   dropped by the bottleneck  p99 of an exchange beside it
//	kernel's BBR           227   232  5 and 15 %                 473 and 473 ms
//	BBR with a rate limit  239   234  0.4 and 0.4 %              209 and 205 ms
//	CUBIC                  251   251  0.01 and 0 %               139 and 133 ms
//
// A connection therefore starts with the system's choice. If that is BBR, which finds the bandwidth
// faster, it changes to CUBIC once its rate has stopped growing. It changes to BBR when it loses
// packets on a path without a queue, because CUBIC takes such losses for congestion. While it loses
// many packets, its rate is limited.
const (
	// pacingGain is the factor with which BBR itself probes for bandwidth (draft-ietf-ccwg-bbr,
	// section 4.6.3): the connection uses a path that becomes faster after a few samples.
	pacingGain = 1.25

	// pacingLoss is the share of retransmitted bytes above which the rate is limited.
	pacingLoss = 0.02

	// A sample ends after sampleBytes or sampleWrites, but not before sampleSpan has passed.
	sampleBytes  = 256 << 10
	sampleWrites = 64
	sampleSpan   = 50 * time.Millisecond

	// The limit follows the highest delivery rate of the last pacingSamples samples.
	pacingSamples = 8

	// lossFreeSamples is how many samples without loss end the limit.
	lossFreeSamples = 200

	// A path has no queue while its round-trip time is at most queueFactor times the lowest.
	queueFactor = 1.25

	// minRandomLosses is how many samples with losses and without a queue show that a path loses
	// packets at random. Two of them count together only if at most maxRandomGap samples without
	// loss lie between them.
	minRandomLosses = 3
	maxRandomGap    = 100

	// The rate has stopped growing when it has grown by less than steadyGrowth in steadySamples
	// samples. Samples of less than sampleBytes do not count, because a dialogue tells nothing
	// about the path.
	steadyGrowth  = 1.25
	steadySamples = 3
)

// congestion is a choice of congestion control for a connection.
type congestion uint8

const (
	systemChoice congestion = iota // what the system begins with
	notBBR                         // samples taken
	useBBR
)

// pacing decides the congestion control and the rate limit of one connection.
type pacing struct {
	written         int // bytes since the last sample
	writes          int // since the last sample
	next            time.Time
	last            sys.TCPState
	rates           [pacingSamples]uint64 // delivery rates of the last samples
	n               int                   // samples taken
	sinceLoss       int                   // samples without loss since the last one with loss
	randomLosses    int                   // samples with loss and without a queue, since the last one with both
	sinceRandomLoss int                   // samples without loss since the last random loss
	highest         uint64                // delivery rate when it last grew
	sinceGrowth     int                   // samples since then

	limit   uint64 // bytes a second; 0 means none
	control congestion
}

// due counts n written bytes and reports whether to take a sample.
func (p *pacing) due(n int) bool {
	p.written += n
	if p.writes++; p.written < sampleBytes && p.writes < sampleWrites {
		return false
	}
	p.written, p.writes = 0, 0
	return true
}

// sample takes a sample and reports whether limit or control has changed.
func (p *pacing) sample(s sys.TCPState, now time.Time) bool {
	if now.Before(p.next) {
		return false
	}
	p.next = now.Add(max(sampleSpan, s.RTT))
	sent, retrans := s.Sent-p.last.Sent, s.Retrans-p.last.Retrans
	p.last = s
	p.rates[p.n%pacingSamples] = s.DeliveryRate
	p.n++
	limit, control := p.limit, p.control
	p.noteLoss(retrans > 0, float64(s.RTT) > queueFactor*float64(s.MinRTT))
	if sent >= sampleBytes {
		p.noteRate(s.DeliveryRate)
	}
	p.chooseControl()
	p.adaptLimit(float64(retrans) > pacingLoss*float64(sent))
	return p.limit != limit || p.control != control
}

// noteLoss counts the samples that show random losses.
func (p *pacing) noteLoss(loses, queued bool) {
	switch {
	case loses && queued:
		p.randomLosses = 0
	case loses:
		p.randomLosses, p.sinceRandomLoss = p.randomLosses+1, 0
	default:
		if p.sinceRandomLoss++; p.sinceRandomLoss > maxRandomGap {
			p.randomLosses = 0
		}
	}
}

// noteRate counts the samples in which the rate has not grown.
func (p *pacing) noteRate(rate uint64) {
	if float64(rate) > steadyGrowth*float64(p.highest) {
		p.highest, p.sinceGrowth = rate, 0
	} else {
		p.sinceGrowth++
	}
}

// chooseControl changes to CUBIC at a steady rate, and to BBR after random losses. A connection
// that has had random losses keeps BBR.
func (p *pacing) chooseControl() {
	switch {
	case p.control == useBBR:
	case p.randomLosses >= minRandomLosses:
		p.control = useBBR
	case p.sinceGrowth >= steadySamples:
		p.control = notBBR
	}
}

// adaptLimit limits the rate while too much is lost, and for lossFreeSamples after that.
func (p *pacing) adaptLimit(tooMuch bool) {
	switch {
	case tooMuch:
		p.sinceLoss = 0
	case p.limit == 0:
		return
	default:
		p.sinceLoss++
	}
	p.limit = 0
	if p.sinceLoss < lossFreeSamples {
		for _, r := range p.rates {
			p.limit = max(p.limit, r)
		}
		p.limit = uint64(pacingGain * float64(p.limit))
	}
}
