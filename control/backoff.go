package control

import "time"

// maxBackoff is the longest wait before jitter.
const maxBackoff = 30 * time.Second

// Backoff computes how long to wait after a failure (control specification, section 9.1): n²·10 ms
// after the n-th failure in a row, at most 30 s, multiplied by a random factor from 0.5 to 1.5. The
// zero value has seen no failure.
type Backoff struct{ failures int }

// Next counts a failure and returns the wait that follows it. random is in [0, 1).
func (b *Backoff) Next(random float64) time.Duration {
	b.failures = min(b.failures+1, 1000)
	wait := min(time.Duration(b.failures*b.failures)*10*time.Millisecond, maxBackoff)
	return time.Duration(float64(wait) * (0.5 + random))
}

// Reset forgets the failures.
func (b *Backoff) Reset() { b.failures = 0 }
