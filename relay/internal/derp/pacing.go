package derp

import "time"

// A relay forwards what other TCP senders have already paced, so its socket often has nothing left
// to send. Linux calls such a sender limited by its application. Its BBR then never leaves STARTUP:
// it sends each burst at 2.9 times the bandwidth of the path and with 2.9 bandwidth-delay products
// in flight, for as long as the connection lasts. Every 10 s it sends next to nothing for 200 ms
// (PROBE_RTT), which the connections of a relay cannot hide. Over 66 ms and 300 Mbit/s, one
// connection between two nodes at a time, rates in Mbit/s:
//
//	                        down  up   dropped by the bottleneck  p99 of an exchange beside it
//	kernel's BBR            227   232  5 and 15 %                 473 and 473 ms
//	BBR, with a rate limit  239   234  0.4 and 0.4 %              209 and 205 ms
//	CUBIC                   251   251  0.01 and 0 %               139 and 133 ms
//
// So a connection goes from BBR, which finds a bandwidth faster, to CUBIC, where the system allows
// it, once its rate does not grow any more. It goes to BBR when it loses packets on a path without
// a queue, where CUBIC gives up. And its rate is limited while it loses many packets.
const (
	// pacingGain is what BBR itself probes with (draft-ietf-ccwg-bbr, section 4.6.3): a path that
	// becomes faster is used after some samples.
	pacingGain = 1.25

	// pacingLoss is the share of retransmitted bytes above which the rate is limited.
	pacingLoss = 0.02

	// A sample ends after so many bytes or writes, when so much time has passed.
	sampleBytes  = 256 << 10
	sampleWrites = 64
	sampleSpan   = 50 * time.Millisecond

	// The limit follows the highest delivery rate of so many samples.
	pacingSamples = 8

	// lossFreeSamples is how many samples without loss end the limit.
	lossFreeSamples = 200

	// A path has no queue while its round-trip time is at most so many times the lowest.
	queueFactor = 1.25

	// minRandomLosses is how many samples with losses and without a queue make a path a lossy one, unless
	// more than randomRest samples without loss lie between two of them.
	minRandomLosses = 3
	maxRandomGap    = 100

	// The rate has stopped growing when it has grown by less than this in so many samples, of
	// sampleBytes at the least: a dialogue says nothing about the path.
	steadyGrowth  = 1.25
	steadySamples = 3
)

// congestion is the congestion control that suits a connection.
type congestion uint8

const (
	systemChoice congestion = iota // the one that the system begins with
	notBBR                         // CUBIC instead of BBR
	useBBR
)

// tcpState is what the system tells about a TCP connection.
type tcpState struct {
	rtt, minRTT   time.Duration
	deliveryRate  uint64 // bytes a second, of the last sample that the application did not limit
	sent, retrans uint64 // bytes since the beginning
}

// pacing decides how the system sends what is written to one connection.
type pacing struct {
	written         int // bytes since the last sample
	writes          int // likewise
	next            time.Time
	last            tcpState
	rates           [pacingSamples]uint64 // delivery rates of the last samples
	n               int                   // samples taken
	sinceLoss       int                   // samples without loss since the last with loss
	randomLosses    int                   // samples with loss and without a queue since the last with both
	sinceRandomLoss int                   // samples without loss since the last of them
	highest         uint64                // delivery rate by which it last grew
	sinceGrowth     int                   // samples since

	limit   uint64 // bytes a second; 0 for none
	control congestion
}

// due counts n written bytes and reports whether a sample is to be taken.
func (p *pacing) due(n int) bool {
	p.written += n
	if p.writes++; p.written < sampleBytes && p.writes < sampleWrites {
		return false
	}
	p.written, p.writes = 0, 0
	return true
}

// sample takes a sample and reports whether limit or control has changed.
func (p *pacing) sample(s tcpState, now time.Time) bool {
	if now.Before(p.next) {
		return false
	}
	p.next = now.Add(max(sampleSpan, s.rtt))
	sent, retrans := s.sent-p.last.sent, s.retrans-p.last.retrans
	p.last = s
	p.rates[p.n%pacingSamples] = s.deliveryRate
	p.n++
	limit, control := p.limit, p.control
	p.noteLoss(retrans > 0, float64(s.rtt) > queueFactor*float64(s.minRTT))
	if sent >= sampleBytes {
		p.noteRate(s.deliveryRate)
	}
	p.chooseControl()
	p.adaptLimit(float64(retrans) > pacingLoss*float64(sent))
	return p.limit != limit || p.control != control
}

// noteLoss counts the samples that speak for random losses.
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

// chooseControl follows the path from its start to a steady rate, and to random losses. A path that
// had these keeps BBR.
func (p *pacing) chooseControl() {
	switch {
	case p.control == useBBR:
	case p.randomLosses >= minRandomLosses:
		p.control = useBBR
	case p.sinceGrowth >= steadySamples:
		p.control = notBBR
	}
}

// adaptLimit limits the rate while too much is lost, and for some time after.
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
