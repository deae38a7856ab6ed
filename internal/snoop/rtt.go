package snoop

import "time"

// roundTrip estimates the round-trip time (RFC 6298).
type roundTrip struct {
	smoothed, variance time.Duration // 0: nothing measured yet
	min                time.Duration // of the whole connection, 0 as well
	since              time.Duration // packets sent then or before took another path
	backoff            uint          // doublings of the timeout since something arrived
}

func (r *roundTrip) add(rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	if r.min == 0 || rtt < r.min {
		r.min = rtt
	}
	if r.smoothed == 0 {
		r.smoothed, r.variance = rtt, rtt/2
		return
	}
	r.variance += ((r.smoothed - rtt).Abs() - r.variance) / 4
	r.smoothed += (rtt - r.smoothed) / 8
}

// timeout is the retransmission timeout.
func (r *roundTrip) timeout() time.Duration {
	d := initialRTO
	if r.smoothed > 0 {
		d = max(r.smoothed+4*r.variance, minRTO)
	}
	return min(d<<min(r.backoff, 16), maxRTO)
}

// probe is the probe timeout (RFC 8985, section 7.2).
func (r *roundTrip) probe(single bool) time.Duration {
	d := 2 * r.smoothed
	if d == 0 {
		return initialRTO
	}
	if single {
		d += ackDelay
	}
	return max(d, minProbe)
}
