package share

import "time"

// Rate bounds how often something happens, such as a line in the log: at most Each times per source
// and All times altogether in a Span. What exceeds that is counted. It remembers All sources at
// most. The exported fields must not be changed once Allow has been called.
type Rate[S comparable] struct {
	Each, All int
	Span      time.Duration

	began      time.Time // of the current span
	done       map[S]int
	total      int
	suppressed int
}

// Allow reports whether it may happen once more for s. If not, it is counted as suppressed.
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

// over reports whether the current span has ended, or none has begun. A clock that was set back
// ends it too.
func (r *Rate[S]) over(now time.Time) bool {
	return r.began.IsZero() || now.Before(r.began) || now.Sub(r.began) >= r.Span
}

// Suppressed returns how often Allow has refused in the spans that are over, and forgets it. It is
// zero while the span lasts, so whoever reports the number does so once in a span.
func (r *Rate[S]) Suppressed(now time.Time) int {
	if !r.over(now) {
		return 0
	}
	n := r.suppressed
	r.suppressed = 0
	return n
}
