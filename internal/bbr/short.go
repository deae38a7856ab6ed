package bbr

import (
	"math"
	"time"
)

// shortRTT is the round-trip time below which a path is short: that of a local network. There the
// time that processes take to be scheduled is longer than that of the network, so rates measured
// over a round trip say nothing, and timers cannot pace. A window that grows until packets are lost
// is back within milliseconds, whatever it lost.
const shortRTT = 2 * time.Millisecond

// renoBeta is what is left of the window when packets were lost (RFC 9438, section 4.6).
const renoBeta = 0.7

// reno is the congestion window of a short path: slow start, then a packet a round trip (RFC 5681).
// The losses of one round trip count once.
type reno struct {
	cwnd      int
	threshold int    // end of slow start
	acked     int    // bytes since the window last grew, after slow start
	recover   uint64 // Delivered until which further losses are those of the same round trip
}

// isShort says whether the path is short. Unknown paths are not.
func (m *Model) isShort() bool { return m.rtt.min > 0 && m.rtt.min < shortRTT }

func (r *reno) init(cwnd int) { *r = reno{cwnd: cwnd, threshold: math.MaxInt} }

// onAck takes an acknowledgement. A window that nobody fills does not grow.
func (r *reno) onAck(s *Sample, mss int) {
	if s.Lost > 0 && s.Delivered >= r.recover {
		r.recover = s.Delivered + uint64(s.InFlight)
		r.threshold = max(int(renoBeta*float64(r.cwnd)), minPipePackets*mss)
		r.cwnd, r.acked = r.threshold, 0
		return
	}
	if !s.CwndLimited {
		return
	}
	if r.cwnd < r.threshold {
		r.cwnd += s.Acked
		return
	}
	if r.acked += s.Acked; r.acked >= r.cwnd {
		r.acked -= r.cwnd
		r.cwnd += mss
	}
}

// onTimeout begins slow start again.
func (r *reno) onTimeout(mss int) {
	r.threshold = max(int(renoBeta*float64(r.cwnd)), minPipePackets*mss)
	r.cwnd, r.acked = mss, 0
}
