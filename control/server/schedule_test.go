package server

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The schedule agrees with a naive map.
func TestSchedule(t *testing.T) {
	var s schedule[int]
	naive := make(map[int]time.Time)
	r := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(0, 0)
	for now := range 2000 {
		k := r.IntN(50)
		switch r.IntN(4) {
		case 0:
			s.set(k, time.Time{})
			delete(naive, k)
		case 1, 2:
			at := start.Add(time.Duration(now+r.IntN(100)) * time.Second)
			s.set(k, at)
			naive[k] = at
		case 3:
			k, ok := s.pop(start.Add(time.Duration(now) * time.Second))
			if at, there := naive[k]; ok && (!there || at.After(start.Add(time.Duration(now)*time.Second))) {
				t.Fatalf("popped %d, due %v", k, at)
			}
			if ok {
				delete(naive, k)
			}
		}
		var first time.Time
		for _, at := range naive {
			if first.IsZero() || at.Before(first) {
				first = at
			}
		}
		if !s.next().Equal(first) || len(s.items) != len(naive) {
			t.Fatalf("next is %v, want %v; %d items, want %d", s.next(), first, len(s.items), len(naive))
		}
	}
}
