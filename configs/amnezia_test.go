package configs

import (
	"strings"
	"testing"
)

// Each key of AmneziaWG is named with its place, and one sentence says what they are.
func TestAmneziaKeys(t *testing.T) {
	_, err := ParseWireGuard("wg.conf", []byte(minimal+"Jc = 5\nJmin = 49\nH1 = 1\n"))
	problems, ok := err.(Problems)
	if !ok || len(problems) != 4 {
		t.Fatalf("got %v, want four problems", err)
	}
	for i, want := range []string{`4:1 "Jc"`, "4:1 AmneziaWG, which disguises", `5:1 "Jmin"`, `6:1 "H1"`} {
		place, text, _ := strings.Cut(want, " ")
		if got := problems[i].String(); !strings.HasPrefix(got, "wg.conf:"+place+": ") || !strings.Contains(got, text) {
			t.Errorf("problem %d: got %s, want %s", i+1, got, want)
		}
	}
}

// A name with digits is repeated up to six characters.
func TestUnknownNamesWithDigits(t *testing.T) {
	for name, want := range map[string]bool{"aB3456": true, "I1": true, "aB34567": false, "aB3+": false, "": false} {
		if got := strings.Contains(named("key", name), name) && name != ""; got != want {
			t.Errorf("%q is repeated: %v, want %v", name, got, want)
		}
	}
}
