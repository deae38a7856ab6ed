package control

import "time"

// maxBackoff bounds the wait before it is jittered.
const maxBackoff = 30 * time.Second

// Backoff says how long to wait after a failure (control specification, section 9.1): n²·10 ms
// after the n-th in a row, and not more than 30 s, times something between a half and one and a
// half. The zero value has seen no failure.
type Backoff struct{ failures int }

// Next counts a failure and returns the wait. The random number is to be at least 0 and less than
// 1.
func (b *Backoff) Next(random float64) time.Duration {
	b.failures = min(b.failures+1, 1000)
	wait := min(time.Duration(b.failures*b.failures)*10*time.Millisecond, maxBackoff)
	return time.Duration(float64(wait) * (0.5 + random))
}

// Reset forgets the failures.
func (b *Backoff) Reset() { b.failures = 0 }
