package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ginnel/bench/trial"
)

// describe returns the paths and contenders of a comparison in one line.
func describe(c *comparison) string {
	var all []string
	for _, p := range c.described() {
		all = append(all, p.Name+": "+strings.Join(p.Contenders, " "))
	}
	return strings.Join(all, "; ")
}

// TestParse proves which contenders are measured on which paths: the core on every path and all of
// them on main paths, unless -only names others.
func TestParse(t *testing.T) {
	const core = "kernel-cubic kernel-bbr ginnel tailscaled"
	const all = core + " ginnel-wireguard wireproxy kernel-forwarded ginnel/ginnel-relay ginnel/derper tailscaled/derper"
	for args, want := range map[string]string{
		"-paths ^rtt20(-[fl]a|$)":                "rtt20: " + core + "; rtt20-fast: " + core + "; rtt20-late5: " + core,
		"-paths ^rtt66$":                         "rtt66: " + all,
		"-paths ^rtt300$ -all":                   "rtt300: " + all,
		"-paths ^rtt300$ -only ginnel/derper":    "rtt300: ginnel/derper",
		"-paths ^rtt300$ -only ginnel -before x": "rtt300: ginnel ginnel-before",
		"-smoke -only kernel-bbr":                "smoke: kernel-bbr",
		"-paths ^rtt1$ -only relayed -before old": "rtt1: kernel-forwarded ginnel/ginnel-relay ginnel/ginnel-relay-before " +
			"ginnel/derper ginnel/derper-before tailscaled/derper",
	} {
		c, err := newComparison(append([]string{"-bin", "y"}, strings.Fields(args)...))
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		if got := describe(c); got != want {
			t.Errorf("%s: got %s, want %s", args, got, want)
		}
	}
	for _, bad := range []string{"-paths (", "-paths nonsense", "-only nonsense", "-rounds 0"} {
		if _, err := newComparison(append([]string{"-bin", "y"}, strings.Fields(bad)...)); err == nil {
			t.Errorf("%s: want an error", bad)
		}
	}
}

// TestDefault proves that all paths are measured without flags.
func TestDefault(t *testing.T) {
	c, err := newComparison([]string{"-bin", "y"})
	if err != nil || len(c.paths) != len(trial.Paths()) || c.plan.Seconds != 5 {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestReportFile proves that figures from a file give the same report again, beside the existing
// figures of the switch.
func TestReportFile(t *testing.T) {
	root := t.TempDir()
	docs := filepath.Join(root, "docs")
	if err := os.Mkdir(docs, 0o755); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(root, "kept.json")
	switchFile := filepath.Join(docs, "benchmarks.json")
	for file, figures := range map[string]string{
		kept: `{"Commit":"abc","Paths":[{"Name":"rtt66","Mbps":300,"Contenders":["ginnel"],
			"Figures":{"ginnel":[{"down1.mbps":234}]}}]}`,
		switchFile: `{"Commit":"def","Groups":[{"Name":"direct","Contenders":["ginnel"]}],
			"Figures":{"ginnel":[{"down1.mbps":2345}]}}`,
	} {
		if err := os.WriteFile(file, []byte(figures), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := newComparison([]string{"-root", root, "-bin", root, "-from", kept, "-write"})
	if err != nil {
		t.Fatal(err)
	}
	if wanted, err := c.ReportFile(); !wanted || err != nil {
		t.Fatal(wanted, err)
	}
	for name, want := range map[string]string{
		"BENCHMARKS.md": "| 234 / - |", "docs/paths.svg": "polyline", "docs/paths.json": "234",
		"docs/benchmarks.json": "2345",
	} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, %q is not in %q", name, err, want, b)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(root, "BENCHMARKS.md")); !strings.Contains(string(b), "2345") {
		t.Errorf("the figures of the switch are missing:\n%s", b)
	}
}
