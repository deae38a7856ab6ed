package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestParse proves what single flags mean, and that invalid values are errors.
func TestParse(t *testing.T) {
	o, err := newComparison([]string{"-root", "x", "-bin", "y", "-rounds", "5", "-seconds", "0.5", "-scale",
		"-only", "relay,kernel"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Rounds != 5 || o.plan.Seconds != 0.5 || len(o.plan.IdleClients) != 4 || !filepath.IsAbs(string(o.Programs)) ||
		!filepath.IsAbs(o.Root) {
		t.Errorf("got %+v", o)
	}
	if o.JSON != "" || o.SVG != "" || o.Write {
		t.Errorf("files are written without a flag for them: %+v", o)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"-seconds", "-1"}, {"-only", "nonsense"}, {"-only", "direct,"},
		{"-steps", "("}, {"word"}} {
		if _, err := newComparison(append([]string{"-bin", "y"}, bad...)); err == nil {
			t.Errorf("%v: want an error", bad)
		}
	}
}

// TestSmoke proves that -smoke means one short round whatever other flags say.
func TestSmoke(t *testing.T) {
	o, err := newComparison([]string{"-bin", "y", "-smoke", "-rounds", "5", "-seconds", "9"})
	if err != nil || o.Rounds != 1 || o.plan.Seconds >= 1 {
		t.Errorf("got %+v, %v", o, err)
	}
}

// TestChoose proves that -only selects groups and contenders by name, and does not change their
// order.
func TestChoose(t *testing.T) {
	for only, want := range map[string]string{
		"":                       "10 of them",
		"relay":                  "ginnel-relay derper",
		"derper,ginnel,ginnel":   "ginnel derper",
		"relayed,tailscaled":     "tailscaled ginnel/ginnel-relay tailscaled/derper tailscaled/ginnel-relay",
		"direct,relayed,relay":   "10 of them",
		"ginnel-relay,kernel":    "kernel ginnel-relay",
		"wireproxy,ginnel-relay": "wireproxy ginnel-relay",
	} {
		o, err := newComparison([]string{"-bin", "y", "-only", only})
		if err != nil {
			t.Fatalf("%q: %v", only, err)
		}
		chosen := o.Contenders
		var names []string
		for _, c := range chosen {
			names = append(names, c.Name)
		}
		got := strings.Join(names, " ")
		if len(names) == 10 {
			got = "10 of them"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", only, got, want)
		}
		all := 0
		for _, g := range groups(chosen) {
			all += len(g.Contenders)
			if !slices.ContainsFunc(names, func(n string) bool { return n == g.Contenders[0] }) {
				t.Errorf("%q: group %s has %v", only, g.Name, g.Contenders)
			}
		}
		if all != len(chosen) {
			t.Errorf("%q: %d contenders in groups, want %d", only, all, len(chosen))
		}
	}
}

// TestReportFile proves that figures from a file give the same report again, in all files, and that
// an invalid file is an error.
func TestReportFile(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(root, "kept.json")
	const figures = `{"Commit":"abc","Rounds":1,"Groups":[{"Name":"direct","Contenders":["ginnel"]}],
		"Figures":{"ginnel":[{"down1.mbps":2345}]}}`
	if err := os.WriteFile(kept, []byte(figures), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := newComparison([]string{"-root", root, "-bin", root, "-from", kept, "-write"})
	if err != nil {
		t.Fatal(err)
	}
	if wanted, err := o.ReportFile(); !wanted || err != nil {
		t.Fatal(wanted, err)
	}
	for _, name := range []string{"BENCHMARKS.md", "docs/benchmarks.svg", "docs/benchmarks.json"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || !strings.Contains(string(b), "2345") {
			t.Errorf("%s: %v, %q", name, err, b)
		}
	}
	for _, bad := range []string{"", "{", "[]"} {
		if err := os.WriteFile(kept, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := o.ReportFile(); err == nil {
			t.Errorf("figures that are %q: want an error", bad)
		}
	}
}
