package snoop

import "time"

// roundTrip estimates the round-trip time (RFC 6298).
type roundTrip struct {
	smoothed, variance time.Duration // SRTT and RTTVAR; 0: nothing measured yet
	min                time.Duration // on the present path; 0: nothing measured yet
	since              time.Duration // packets sent then or earlier took another path
	backoff            uint          // doublings of the timeout since the last acknowledgement
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

// timeout returns the retransmission timeout.
func (r *roundTrip) timeout() time.Duration {
	d := initialRTO
	if r.smoothed > 0 {
		d = max(r.smoothed+4*r.variance, minRTO)
	}
	return min(d<<min(r.backoff, 16), maxRTO)
}

// probe returns the probe timeout (RFC 8985, section 7.2) for a peer that may delay its
// acknowledgement by delay.
func (r *roundTrip) probe(delay time.Duration) time.Duration {
	if r.smoothed == 0 {
		return initialRTO
	}
	return max(2*r.smoothed+delay, minProbe)
}
