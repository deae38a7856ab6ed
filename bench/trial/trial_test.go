package trial

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ginnel/bench/peer"
)

// TestPlay proves that only roles are taken for roles, and that one that does not understand says
// so and gives no figures.
func TestPlay(t *testing.T) {
	for _, args := range [][]string{nil, {"-rounds", "3"}, {"nonsense"}} {
		if known, err := Play(t.Context(), args, strings.NewReader(""), new(bytes.Buffer)); known || err != nil {
			t.Errorf("%v: got %v, %v", args, known, err)
		}
	}
	for _, args := range [][]string{{loadRole}, {loadRole, "{"}, {loadRole, "{}"}, {relayedRole, `{"Kind":"nonsense"}`}, {relayedRole, "{}", "{}"}} {
		var out bytes.Buffer
		if known, err := Play(t.Context(), args, strings.NewReader(""), &out); !known || err == nil || out.Len() != 0 {
			t.Errorf("%v: got %v, %v, wrote %q", args, known, err, out.String())
		}
	}
	if known, err := Play(t.Context(), []string{holdRole}, strings.NewReader(""), new(bytes.Buffer)); !known || err != nil {
		t.Errorf("holding until the end of input: got %v, %v", known, err)
	}
}

// TestWantedSteps proves that what is not wanted is left out, and a part with nothing else in it
// too.
func TestWantedSteps(t *testing.T) {
	p := Full(2)
	p.Steps = regexp.MustCompile(`^(up8|trips)$`)
	var got []string
	for _, part := range p.parts(contender(t, "ginnel")) {
		for _, s := range part {
			got = append(got, s.name)
		}
		got = append(got, ";")
	}
	for _, s := range slices.Concat(p.relayParts()...) {
		got = append(got, s.name)
	}
	if want := "trips ; up8 ; trips"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// contender is one of those on the switch.
func contender(t *testing.T, name string) *peer.Contender {
	t.Helper()
	for _, c := range peer.Contenders() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no contender %s", name)
	return nil
}

// TestParts proves that no step hides another by its name, that all have a length, and that the
// protocols are those that are asked for.
func TestParts(t *testing.T) {
	c := contender(t, "tailscaled")
	for name, p := range map[string]Plan{"full": Full(2), "scale": Scale(2), "smoke": Smoke()} {
		seen := make(map[string]bool)
		for _, s := range slices.Concat(p.parts(c)...) {
			want := c.SOCKS
			if strings.HasPrefix(s.name, "connect-") {
				want = c.HTTP
			}
			if seen[s.name] || s.spec.Duration <= 0 || s.spec.Proxy != want {
				t.Errorf("%s: %s is there twice, or is %+v", name, s.name, s.spec)
			}
			seen[s.name] = true
		}
		clear(seen)
		for _, s := range slices.Concat(p.relayParts()...) {
			if seen[s.name] || s.spec.Duration <= 0 {
				t.Errorf("%s: %s is there twice, or is %+v", name, s.name, s.spec)
			}
			seen[s.name] = true
		}
	}
}

// TestPartsOf proves that contenders are spared what they do not have: datagrams, nodes that could
// be quiet, and crowds where there is a relay.
func TestPartsOf(t *testing.T) {
	for name, want := range map[string]string{
		"ginnel": "quiet datagrams crowd1000 crowd2000 crowd4000 crowd10000", "wireproxy": "quiet crowd1000 crowd2000 crowd4000 crowd10000",
		"kernel": "datagrams crowd1000 crowd2000 crowd4000 crowd10000", "tailscaled/derper": "datagrams",
	} {
		p := Full(2)
		p.Steps = regexp.MustCompile("^(quiet|datagrams|crowd)")
		var got []string
		for _, s := range slices.Concat(p.parts(contender(t, name))...) {
			got = append(got, s.name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
}
