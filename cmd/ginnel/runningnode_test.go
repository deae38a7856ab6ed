package main

import (
	"testing"
	"time"
)

// A node that is ready soon is noticed at once. One that has to wait for long is asked rarely.
func TestJoinPause(t *testing.T) {
	for _, c := range []struct{ waited, want time.Duration }{
		{0, joinPoll},
		{time.Second, joinPoll},
		{10 * time.Second, 200 * time.Millisecond},
		{time.Minute, joinPollMax},
		{24 * time.Hour, joinPollMax},
	} {
		if got := joinPause(c.waited); got != c.want {
			t.Errorf("after %v: %v, want %v", c.waited, got, c.want)
		}
	}
}
