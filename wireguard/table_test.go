package wireguard

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
)

// A table behaves like a map under random operations.
func TestTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table := table[uint32, int]{part: func(n uint32) byte { return byte(n % 3) }}
	naive := make(map[uint32]int)
	for i := range 20_000 {
		k, v := r.Uint32N(50), int(r.Uint32N(3))
		switch r.Uint32N(4) {
		case 0:
			table.set(k, v)
			naive[k] = v
		case 1:
			_, exists := naive[k]
			if table.add(k, v) == exists {
				t.Fatalf("step %d: add of key %d reports %v", i, k, exists)
			}
			if !exists {
				naive[k] = v
			}
		case 2:
			table.remove(k, v)
			if naive[k] == v {
				delete(naive, k)
			}
		}
		if got := table.get(k); got != naive[k] {
			t.Fatalf("step %d: key %d: got %d, want %d", i, k, got, naive[k])
		}
	}
	if all := table.all(); !maps.Equal(all, naive) {
		t.Errorf("got %v, want %v", all, naive)
	}
}

// A reader that runs at the same time as writers sees the old or the new value of a key.
func TestTableConcurrentReaders(t *testing.T) {
	table := table[uint32, uint32]{part: func(n uint32) byte { return byte(n) }}
	for k := range uint32(1000) {
		table.set(k, k)
	}
	var wg sync.WaitGroup
	for i := range uint32(4) {
		wg.Go(func() {
			for k := i; k < 1000; k += 4 {
				table.remove(k, k)
				table.add(k, 2*k)
			}
		})
		wg.Go(func() {
			for k := range uint32(1000) {
				if v := table.get(k); v != k && v != 2*k && v != 0 {
					t.Errorf("key %d: got %d, which it never had", k, v)
				}
			}
		})
	}
	wg.Wait()
	for k := range uint32(1000) {
		if v := table.get(k); v != 2*k {
			t.Errorf("key %d at the end: got %d, want %d", k, v, 2*k)
		}
	}
}
