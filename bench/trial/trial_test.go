package trial

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ginnel/bench/peer"
)

// TestRunRole proves that only names of roles are taken as roles, and that a role with invalid
// arguments returns an error and no figures.
func TestRunRole(t *testing.T) {
	for _, args := range [][]string{nil, {"-rounds", "3"}, {"nonsense"}} {
		if known, err := RunRole(t.Context(), args, strings.NewReader(""), new(bytes.Buffer)); known || err != nil {
			t.Errorf("%v: got %v, %v", args, known, err)
		}
	}
	for _, args := range [][]string{{loadRole}, {loadRole, "{"}, {loadRole, "{}"}, {relayedRole, `{"Kind":"nonsense"}`},
		{relayedRole, "{}", "{}"}} {
		var out bytes.Buffer
		if known, err := RunRole(t.Context(), args, strings.NewReader(""), &out); !known || err == nil || out.Len() != 0 {
			t.Errorf("%v: got %v, %v, wrote %q", args, known, err, out.String())
		}
	}
	if known, err := RunRole(t.Context(), []string{holdRole}, strings.NewReader(""), new(bytes.Buffer)); !known ||
		err != nil {
		t.Errorf("holding until the end of input: got %v, %v", known, err)
	}
}

// TestWantedSteps proves that steps that are not wanted are omitted, and parts that would be empty
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

// contender returns the contender on the switch with this name.
func contender(t *testing.T, name string) *peer.Contender {
	t.Helper()
	for _, c := range peer.Contenders() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no contender %s", name)
	return nil
}

// TestParts proves that the names of steps are unique, and that every step has a duration and the
// right proxy.
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
				t.Errorf("%s: %s is duplicate, or has the specification %+v", name, s.name, s.spec)
			}
			seen[s.name] = true
		}
		clear(seen)
		for _, s := range slices.Concat(p.relayParts()...) {
			if seen[s.name] || s.spec.Duration <= 0 {
				t.Errorf("%s: %s is duplicate, or has the specification %+v", name, s.name, s.spec)
			}
			seen[s.name] = true
		}
	}
}

// TestPartsOf proves which contenders are not measured with datagrams, idle nodes or crowds.
func TestPartsOf(t *testing.T) {
	for name, want := range map[string]string{
		"ginnel":    "quiet datagrams crowd1000 crowd2000 crowd4000 crowd10000",
		"wireproxy": "quiet crowd1000 crowd2000 crowd4000 crowd10000",
		"kernel":    "datagrams crowd1000 crowd2000 crowd4000 crowd10000", "tailscaled/derper": "datagrams",
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
