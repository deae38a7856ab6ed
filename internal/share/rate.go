package share

import "time"

// Rate bounds how often something happens, such as a log line: in each Span at most Each times per
// source and All times in total. It counts what exceeds that. It remembers at most All sources. The
// exported fields must not be changed once Allow has been called.
type Rate[S comparable] struct {
	Each, All int
	Span      time.Duration

	began      time.Time // start of the current span
	done       map[S]int
	total      int
	suppressed int
}

// Allow reports whether the event may happen once more for s. If not, it counts it as suppressed.
func (r *Rate[S]) Allow(now time.Time, s S) bool {
	if r.over(now) {
		r.began, r.total = now, 0
		clear(r.done)
	}
	if r.total >= r.All || r.done[s] >= r.Each {
		r.suppressed++
		return false
	}
	if r.done == nil {
		r.done = make(map[S]int)
	}
	r.done[s]++
	r.total++
	return true
}

// over reports whether the current span has ended or none has begun. A clock that was set back ends
// the span too.
func (r *Rate[S]) over(now time.Time) bool {
	return r.began.IsZero() || now.Before(r.began) || now.Sub(r.began) >= r.Span
}

// Suppressed returns how often Allow has refused in the span that has ended, and resets the count.
// It returns zero while the span lasts, so that the number is reported once per span.
func (r *Rate[S]) Suppressed(now time.Time) int {
	if !r.over(now) {
		return 0
	}
	n := r.suppressed
	r.suppressed = 0
	return n
}
