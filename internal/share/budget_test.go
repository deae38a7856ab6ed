package share

import "testing"

// One source gets at most three quarters of a budget, so the next source finds some room.
func TestBudget(t *testing.T) {
	b := Budget[string]{Size: 1000}
	take := func(s string) (n int) {
		for b.Take(s, 1) {
			n++
		}
		return n
	}
	if got := take("a"); got < 740 || got > 760 {
		t.Errorf("a source has taken %d of 1000, want about 750", got)
	}
	if b.Take("b", 300) {
		t.Error("more was taken than there is")
	}
	for _, s := range []string{"b", "c"} {
		if take(s) == 0 {
			t.Errorf("nothing was left for %s", s)
		}
	}
	before := take("d")
	b.Give("a", 500)
	if got := take("d"); got <= before {
		t.Errorf("a source has got %d after another gave 500 back", got)
	}
}

// A source that has given back everything is forgotten.
func TestBudgetIsEmptyAgain(t *testing.T) {
	b := Budget[int]{Size: 10}
	for i := range 100 {
		if !b.Take(i, 5) {
			t.Fatalf("there is no room for source %d", i)
		}
		b.Give(i, 5)
	}
	if len(b.by) != 0 || b.used != 0 {
		t.Errorf("%d sources use %d", len(b.by), b.used)
	}
}
