package userstack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"ginnel/internal/snoop"
)

// Recovery counts what all connections have sent under BBR, and how losses were repaired.
type Recovery struct {
	Packets       uint64 // with data that were sent, repeated ones included
	Lost          uint64 // found lost
	Retransmitted uint64 // sent again
	Spurious      uint64 // of these, sent although the other side had them (RFC 2883)
	Timeouts      uint64 // expiries of retransmission timers (RFC 6298)
}

// Recovery returns the counters so far.
func (s *Stack) Recovery() Recovery {
	var sum snoop.Stats
	for _, q := range s.dev.queues {
		q.mu.Lock()
		q.flows.addStats(&sum)
		q.mu.Unlock()
	}
	return Recovery{sum.Packets, sum.Lost, sum.Repeated, sum.Spurious, sum.Timeouts}
}

// addStats adds what the flows have done, those that have ended included.
func (fs *flows) addStats(sum *snoop.Stats) {
	sum.Add(fs.ended)
	for _, f := range fs.byID {
		if f.snd != nil {
			sum.Add(f.snd.Stats())
		}
	}
}

// Traffic is what connections to one address have carried since the last report.
type Traffic struct {
	Packets   int // that were sent, repeated ones included
	Lost      int // of these, as far as is known
	Delivered int // bytes that the other side has acknowledged
}

const (
	reportInterval = time.Second
	reportPackets  = 64 // fewer packets in an interval are not reported
)

// trafficReport tells what connections carry while they carry much. Its timer runs only then; the
// queue's mutex guards it.
type trafficReport struct {
	q        *Queue
	callback func(all map[netip.Addr]Traffic, since time.Duration) // nil: nobody wants to know
	timer    tcpip.Timer
	running  bool
	sent     int           // packets since the last report
	since    time.Duration // when the last report was made
}

// noteLocked is told of packets that were sent.
func (r *trafficReport) noteLocked(now time.Duration, n int) {
	if r.sent += n; r.running || r.callback == nil || r.sent < reportPackets {
		return
	}
	r.running, r.since = true, now
	r.q.flows.eachTraffic(func(netip.Addr, Traffic) {}) // what was before is not of this interval
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

// report tells, and goes on unless little was sent.
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

// eachTraffic calls f with what each flow has carried since the last call.
func (fs *flows) eachTraffic(f func(netip.Addr, Traffic)) {
	for _, w := range fs.byID {
		if w.snd == nil {
			continue
		}
		s := w.snd.Stats()
		t := Traffic{int(s.Packets - w.reported.Packets), int(s.Lost - w.reported.Lost), int(s.Delivered - w.reported.Delivered)}
		if w.reported = s; t != (Traffic{}) {
			f(w.remote, t)
		}
	}
}
