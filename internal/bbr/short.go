package bbr

import (
	"math"
	"time"
)

// shortRTT is the round-trip time below which a path counts as short, as in a local network. There
// the scheduling of processes takes longer than the network, so rates measured over a round trip
// are meaningless, and timers are too coarse for pacing. A Reno window works well, because it
// recovers from a loss within milliseconds.
const shortRTT = 2 * time.Millisecond

// renoBeta is the factor by which losses reduce the window (RFC 9438, section 4.6).
const renoBeta = 0.7

// reno is the congestion window of a short path (RFC 5681): slow start, then growth by one packet
// per round trip. The losses of one round trip count once.
type reno struct {
	cwnd      int
	threshold int    // ssthresh: end of slow start
	acked     int    // bytes acknowledged since the window last grew, after slow start
	recover   uint64 // losses until Delivered reaches it belong to the same round trip
}

// isShort reports whether the path is short. An unknown path is not.
func (m *Model) isShort() bool { return m.rtt.min > 0 && m.rtt.min < shortRTT }

func (r *reno) init(cwnd int) { *r = reno{cwnd: cwnd, threshold: math.MaxInt} }

// onAck handles an acknowledgement. A window that the sender does not fill does not grow.
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

// onTimeout restarts slow start.
func (r *reno) onTimeout(mss int) {
	r.threshold = max(int(renoBeta*float64(r.cwnd)), minPipePackets*mss)
	r.cwnd, r.acked = mss, 0
}
