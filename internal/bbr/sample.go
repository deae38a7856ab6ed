package bbr

import "time"

// Sample is the measurement of one acknowledgement. Bytes are of TCP payload.
type Sample struct {
	Now time.Duration // on any clock that does not go back

	Delivered      uint64 // bytes delivered since the start of the connection
	PriorDelivered uint64 // Delivered when the newest acknowledged packet was sent

	// Interval is the time in which Delivered - PriorDelivered bytes were delivered: the time in which
	// they were sent or the time between their acknowledgements, whichever is longer. Zero means that
	// the sample has no rate.
	Interval time.Duration

	// RTT is the round-trip time of the newest packet that was sent only once; zero means that there
	// is none.
	RTT time.Duration

	// AppLimited says that the sender had nothing to send at some time in the interval, so the
	// bandwidth may be higher than the rate.
	AppLimited bool

	Acked      int // bytes that this acknowledgement newly acknowledges
	Lost       int // bytes that were newly found lost
	TxInFlight int // bytes in flight just after the newest acknowledged packet was sent
	LostSince  int // bytes found lost since that packet was sent
	InFlight   int // bytes in flight now

	CwndLimited bool // the congestion window has limited sending since the last acknowledgement
}

// rate returns the delivery rate in bytes a second, 0 if it is unknown.
func (s *Sample) rate() float64 {
	if s.Interval <= 0 {
		return 0
	}
	return float64(s.Delivered-s.PriorDelivered) / s.Interval.Seconds()
}

// Loss is a packet that was found lost. Bytes are of TCP payload.
type Loss struct {
	Size       int // of the packet
	TxInFlight int // bytes in flight just after it was sent
	LostSince  int // bytes found lost since it was sent, itself included
}

// fraction returns the fraction of the bytes in flight that was lost.
func (l *Loss) fraction() float64 { return float64(l.LostSince) / float64(max(l.TxInFlight, 1)) }

// onset returns how much was in flight when the fraction of lost bytes first exceeded lossThresh.
func (l *Loss) onset() int {
	before, lost := float64(l.TxInFlight-l.Size), float64(l.LostSince-l.Size)
	return int(before + max(lossThresh*before-lost, 0)/(1-lossThresh))
}
