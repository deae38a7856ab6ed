package share

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// naive is a Table that follows the comments of Table literally, without its data structures.
type naive []struct {
	s string
	v int
}

func (n *naive) add(s string, v int) {
	n.remove(v)
	*n = append(*n, struct {
		s string
		v int
	}{s, v})
}

func (n *naive) remove(v int) bool {
	had := len(*n)
	*n = slices.DeleteFunc(*n, func(h struct {
		s string
		v int
	}) bool {
		return h.v == v
	})
	return len(*n) < had
}

func (n *naive) renew(v int) {
	for _, h := range *n {
		if h.v == v {
			n.add(h.s, v)
			return
		}
	}
}

func (n *naive) count(s string) (c int) {
	for _, h := range *n {
		if h.s == s {
			c++
		}
	}
	return c
}

func (n *naive) all(s string) (vs []int) {
	for _, h := range *n {
		if h.s == s {
			vs = append(vs, h.v)
		}
	}
	return vs
}

func (n *naive) greediest() (s string, v int, ok bool) {
	most := 0
	for _, h := range *n { // the oldest first
		if c := n.count(h.s); c > most {
			s, v, ok, most = h.s, h.v, true, c
		}
	}
	return s, v, ok
}

// A Table agrees with the naive one under random changes.
func TestTableAgainstNaive(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var table Table[string, int]
		var n naive
		sources := []string{"a", "b", "c", "d", "e"}
		for range 2000 {
			s, v := sources[r.IntN(1+r.IntN(len(sources)))], r.IntN(40)
			switch r.IntN(4) {
			case 0, 1:
				table.Add(s, v)
				n.add(s, v)
			case 2:
				if got, want := table.Remove(v), n.remove(v); got != want {
					t.Fatalf("seed %d: Remove(%d) = %t, want %t", seed, v, got, want)
				}
			case 3:
				table.Renew(v)
				n.renew(v)
			}
			gs, gv, gok := table.Greediest()
			ws, wv, wok := n.greediest()
			if gs != ws || gv != wv || gok != wok {
				t.Fatalf("seed %d: Greediest() = %s %d %t, want %s %d %t", seed, gs, gv, gok, ws, wv, wok)
			}
			for _, s := range sources {
				if got, want := slices.Collect(table.All(s)), n.all(s); !slices.Equal(got, want) || table.Count(s) != len(want) {
					t.Fatalf("seed %d: All(%s) = %v, want %v; count %d", seed, s, got, want, table.Count(s))
				}
			}
			if held := len(slices.Collect(table.Held())); held != len(n) {
				t.Fatalf("seed %d: Held() yields %d, want %d", seed, held, len(n))
			}
			if table.Len() != len(n) || len(table.sources) != len(table.byCount) {
				t.Fatalf("seed %d: %d held, want %d; %d sources, %d in the heap",
					seed, table.Len(), len(n), len(table.sources), len(table.byCount))
			}
		}
	}
}

// Claim takes only from a source that would then still hold as much as the claimant. Displace makes
// room in any case.
func TestClaimAndDisplace(t *testing.T) {
	tests := []struct {
		name            string
		held            string // sources in the order in which they took 0, 1, 2...
		s               string
		claim, displace int // -1: nothing
	}{
		{"empty", "", "a", -1, -1},
		{"greedy other", "aab", "b", -1, 2},
		{"greedier other", "aaab", "b", 0, 0},
		{"newcomer", "aab", "c", 0, 0},
		{"newcomer among equals", "abc", "d", -1, 0},
		{"own greed", "aab", "a", -1, 0},
		{"equals", "abab", "b", -1, 1},
		{"two greedy ones", "cbbaacc", "d", 0, 0},
		{"greedy ones as greedy", "bbaa", "d", 0, 0},
	}
	for _, test := range tests {
		var table Table[string, int]
		for i, s := range test.held {
			table.Add(string(s), i)
		}
		if _, v, ok := table.Claim(test.s); ok != (test.claim >= 0) || ok && v != test.claim {
			t.Errorf("%s: Claim(%s) = %d %t, want %d", test.name, test.s, v, ok, test.claim)
		}
		if _, v, ok := table.Displace(test.s); ok != (test.displace >= 0) || ok && v != test.displace {
			t.Errorf("%s: Displace(%s) = %d %t, want %d", test.name, test.s, v, ok, test.displace)
		}
	}
}

// If one source keeps adding to a full table, the others keep their things, up to a fair share.
func TestFloodLeavesShares(t *testing.T) {
	const limit = 100
	var table Table[string, int]
	add := func(s string, v int) {
		if table.Len() >= limit {
			_, oldest, _ := table.Displace(s)
			table.Remove(oldest)
		}
		table.Add(s, v)
	}
	for i := range 10 {
		add("honest", i)
	}
	for i := range 10 * limit {
		add("flood", 1000+i)
	}
	for i := range 40 {
		add("late", 5000+i)
	}
	for s, want := range map[string]int{"honest": 10, "late": 40, "flood": 50} {
		if n := table.Count(s); n != want {
			t.Errorf("%s has %d, want %d", s, n, want)
		}
	}
}

// Adding and removing stay fast when one source holds very many things.
func BenchmarkTable(b *testing.B) {
	var table Table[int, int]
	for i := range 60_000 {
		table.Add(i%20_000, i)
	}
	for i := 60_000; b.Loop(); i++ {
		_, oldest, _ := table.Displace(i % 30_000)
		table.Remove(oldest)
		table.Add(i%30_000, i)
	}
}
