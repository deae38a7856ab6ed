package share

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	r := Rate[string]{Each: 2, All: 3, Span: time.Minute}
	t0 := time.Unix(1000, 0)
	steps := []struct {
		after      time.Duration
		s          string
		ok         bool
		suppressed int // before it
	}{
		{0, "a", true, 0},
		{1 * time.Second, "a", true, 0},
		{2 * time.Second, "a", false, 0}, // more than Each
		{3 * time.Second, "b", true, 0},
		{4 * time.Second, "c", false, 0},  // more than All
		{59 * time.Second, "a", false, 0}, // the span lasts
		{60 * time.Second, "a", true, 3},
		{61 * time.Second, "a", true, 0},
		{62 * time.Second, "a", false, 0},
		{200 * time.Second, "b", true, 1},
		{300 * time.Second, "b", true, 0},
		{0, "b", true, 0}, // the clock was set back
	}
	for _, step := range steps {
		now := t0.Add(step.after)
		if n := r.Suppressed(now); n != step.suppressed {
			t.Errorf("at %v: %d suppressed, want %d", step.after, n, step.suppressed)
		}
		if ok := r.Allow(now, step.s); ok != step.ok {
			t.Errorf("at %v: Allow(%s) = %t", step.after, step.s, ok)
		}
	}
}

// A Rate remembers only sources that it has allowed, so many sources need no more memory than All.
func TestRateMemory(t *testing.T) {
	r := Rate[int]{Each: 2, All: 10, Span: time.Minute}
	for i := range 10_000 {
		r.Allow(time.Unix(int64(i/100), 0), i)
		if len(r.done) > r.All {
			t.Fatalf("%d sources are remembered", len(r.done))
		}
	}
}

// A thousand lines of one source are reduced to a few lines and a count. Lines of another source
// are still written.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	l := NewLines(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelInfo, "door slammed",
		Rate[string]{Each: 3, All: 10, Span: time.Minute})
	t0 := time.Unix(1000, 0)
	for i := range 1000 {
		l.Write(t0.Add(time.Duration(i)*time.Millisecond), "wind", "by", "wind")
	}
	l.Write(t0.Add(2*time.Second), "guest", "by", "guest")
	l.Flush(t0.Add(3 * time.Second))
	if got := strings.Count(out.String(), "\n"); got != 4 || strings.Count(out.String(), "by=guest") != 1 {
		t.Errorf("%d lines:\n%s", got, out.String())
	}
	out.Reset()
	l.Flush(t0.Add(time.Minute))
	l.Flush(t0.Add(2 * time.Minute))
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `line="door slammed" count=997`) {
		t.Errorf("the count:\n%s", got)
	}
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1/32",
		"::ffff:192.0.2.1":     "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::9":      "2001:db8:1:2::/64",
		"2001:db8:1:3::9":      "2001:db8:1:3::/64",
		"fe80::1%eth0":         "fe80::/64",
	} {
		if got := SourceOf(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("SourceOf(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := SourceOf(netip.Addr{}); got.IsValid() {
		t.Errorf("SourceOf of nothing = %s", got)
	}
	for text, want := range map[string]netip.Prefix{
		"192.0.2.1:5":            netip.MustParsePrefix("192.0.2.1/32"),
		"[::ffff:192.0.2.1]:5":   netip.MustParsePrefix("192.0.2.1/32"),
		"[2001:db8::1%eth0]:443": netip.MustParsePrefix("2001:db8::/64"),
		"@":                      {},
		"":                       {},
	} {
		if got := SourceOfHost(text); got != want {
			t.Errorf("SourceOfHost(%q) = %s, want %s", text, got, want)
		}
	}
}
