package ginnel_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// modulePath is the path of the main module, as go.mod has it: 'make module-path' changes it there.
func modulePath(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if p, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(p)
		}
	}
	t.Fatal("go.mod names no module")
	return ""
}

// A program in a module outside this tree, which uses nodes, a relay and a coordination server as a
// library, compiles with the 'replace' line that the README gives, and runs.
func TestOutsideModule(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	module, dir := modulePath(t), t.TempDir()
	program, err := os.ReadFile(filepath.Join("testdata", "outside", "main.go.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	// The requirements are those of this module, so that nothing has to be looked up.
	_, requirements, _ := strings.Cut(string(own), "\n")
	files := map[string]string{
		"main.go": strings.ReplaceAll(string(program), "MODULE", module),
		"go.mod":  "module example.org/outside\n" + withoutTools(requirements) + "\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + here + "\n",
		"go.sum":  string(sum),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "run", "-mod=mod", ".")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go run: %v\n%s", err, out)
	}
	if got, want := string(out), "hello from beta\n"; got != want {
		t.Errorf("the program prints %q, want %q", got, want)
	}
}

// withoutTools leaves out the tool lines of a go.mod.
func withoutTools(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "tool ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
