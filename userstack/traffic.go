package userstack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"ginnel/internal/snoop"
)

// Recovery counts the data packets of all connections under BBR, and the repair of losses.
type Recovery struct {
	Packets       uint64 // data packets sent, including retransmissions
	Lost          uint64 // packets declared lost
	Retransmitted uint64
	Spurious      uint64 // retransmissions of data that the peer had (RFC 2883)
	Timeouts      uint64 // expirations of the retransmission timer (RFC 6298)
}

// Recovery returns the current counters.
func (s *Stack) Recovery() Recovery {
	var sum snoop.Stats
	for _, q := range s.dev.queues {
		q.mu.Lock()
		q.flows.addStats(&sum)
		q.mu.Unlock()
	}
	return Recovery{sum.Packets, sum.Lost, sum.Repeated, sum.Spurious, sum.Timeouts}
}

// addStats adds the counters of all flows to sum, including those that have ended.
func (fs *flows) addStats(sum *snoop.Stats) {
	sum.Add(fs.ended)
	for _, f := range fs.byID {
		if f.snd != nil {
			sum.Add(f.snd.Stats())
		}
	}
}

// Traffic is what the connections to one address have carried since the last report.
type Traffic struct {
	Packets   int // data packets sent, including retransmissions
	Lost      int // packets declared lost
	Delivered int // bytes that the peer has acknowledged
}

const (
	reportInterval = time.Second
	reportPackets  = 64 // an interval with fewer packets is the last one that is reported
)

// trafficReport calls Config.Traffic at intervals while a queue has much traffic. Its timer runs
// only then. The queue's mutex guards it.
type trafficReport struct {
	q        *Queue
	callback func(all map[netip.Addr]Traffic, interval time.Duration) // nil if there is none
	timer    tcpip.Timer
	running  bool
	sent     int           // packets since the last report
	since    time.Duration // when the last report was made
}

// noteLocked notes that n packets were sent, and starts the timer after reportPackets.
func (r *trafficReport) noteLocked(now time.Duration, n int) {
	if r.sent += n; r.running || r.callback == nil || r.sent < reportPackets {
		return
	}
	r.running, r.since = true, now
	r.q.flows.eachTraffic(func(netip.Addr, Traffic) {}) // what was sent before does not count
	if r.timer == nil {
		r.timer = r.q.flows.clock.AfterFunc(reportInterval, r.report)
	} else {
		r.timer.Reset(reportInterval)
	}
}

func (r *trafficReport) stopLocked() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// report calls callback. It restarts the timer unless few packets were sent.
func (r *trafficReport) report() {
	r.q.mu.Lock()
	if r.q.closed {
		r.q.mu.Unlock()
		return
	}
	now := r.q.flows.now()
	all, interval := make(map[netip.Addr]Traffic), now-r.since
	r.q.flows.eachTraffic(func(a netip.Addr, t Traffic) {
		sum := all[a]
		all[a] = Traffic{sum.Packets + t.Packets, sum.Lost + t.Lost, sum.Delivered + t.Delivered}
	})
	r.running = r.sent >= reportPackets
	r.sent, r.since = 0, now
	if r.running {
		r.timer.Reset(reportInterval)
	}
	r.q.mu.Unlock()
	r.callback(all, interval)
}

// eachTraffic calls f for each flow that has carried anything since the last call.
func (fs *flows) eachTraffic(f func(netip.Addr, Traffic)) {
	for _, w := range fs.byID {
		if w.snd == nil {
			continue
		}
		s := w.snd.Stats()
		before := w.reported
		t := Traffic{int(s.Packets - before.Packets), int(s.Lost - before.Lost), int(s.Delivered - before.Delivered)}
		if w.reported = s; t != (Traffic{}) {
			f(w.remote, t)
		}
	}
}
