package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// rate measures the delivery rate, by draft-cheng-iccrg-delivery-rate-estimation.
type rate struct {
	delivered   uint64        // bytes in all
	deliveredAt time.Duration // when delivered last grew
	firstSentAt time.Duration // when the first packet of the present send interval was sent
	lost        uint64        // bytes in all
	appLimited  uint64        // samples are application-limited until so many bytes are delivered; 0: none
	limited     bool          // the congestion window has limited sending since the last acknowledgement
}

// restart begins a new interval after a time in which nothing was in flight.
func (r *rate) restart(now time.Duration) { r.firstSentAt, r.deliveredAt = now, now }

// markIdle records that there is nothing to send, so that the following samples are
// application-limited.
func (r *rate) markIdle(flight int) { r.appLimited = max(r.delivered+uint64(flight), 1) }

// stamp copies the state into a packet that is sent.
func (r *rate) stamp(p *packet, flight int) {
	p.delivered, p.deliveredAt, p.firstSentAt = r.delivered, r.deliveredAt, r.firstSentAt
	p.lostBefore, p.flight, p.appLimited = r.lost, uint32(flight), r.appLimited != 0
}

// newest is a copy of the packet sent last among those that an acknowledgement has newly delivered.
type newest struct {
	packet
	any bool // there is one
}

// take records that p has arrived.
func (r *rate) take(now time.Duration, p *packet, latest *newest) {
	r.delivered += uint64(p.length)
	r.deliveredAt = now
	if !latest.any || p.delivered > latest.delivered || p.delivered == latest.delivered && p.sent >= latest.sent {
		latest.packet, latest.any = *p, true
	}
}

// sample returns the sample of an acknowledgement.
func (r *rate) sample(now time.Duration, latest *newest, minRTT time.Duration) bbr.Sample {
	s := bbr.Sample{Now: now, Delivered: r.delivered, PriorDelivered: r.delivered}
	if !latest.any {
		return s
	}
	if r.appLimited != 0 && r.delivered > r.appLimited {
		r.appLimited = 0
	}
	s.PriorDelivered, s.AppLimited = latest.delivered, latest.appLimited
	s.TxInFlight, s.LostSince = int(latest.flight), int(r.lost-latest.lostBefore)
	sending, acking := latest.sent-latest.firstSentAt, now-latest.deliveredAt
	r.firstSentAt = latest.sent
	if s.Interval = max(sending, acking); s.Interval < minRTT {
		s.Interval = 0 // too short to be real: acknowledgements were aggregated on the path
	}
	return s
}
