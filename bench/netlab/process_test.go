package netlab

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// newProcess starts a shell with a script, in a lab without a network.
func newProcess(t *testing.T, script string) *Process {
	t.Helper()
	l := &Lab{cfg: Config{Dir: t.TempDir()}}
	p, err := l.Start("a program", exec.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return p
}

// TestAwait proves that output is found while the program runs.
func TestAwait(t *testing.T) {
	p := newProcess(t, "echo one; echo key: 7f >&2; read line")
	got, err := p.Await(t.Context(), regexp.MustCompile(`key: [0-9a-f]+`))
	if got != "key: 7f" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestEnded proves that waiting stops when the program has ended, and that the error has its
// output.
func TestEnded(t *testing.T) {
	p := newProcess(t, "echo no such thing; exit 3")
	_, err := p.Await(t.Context(), regexp.MustCompile("ready"))
	if err == nil || !strings.Contains(err.Error(), "no such thing") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
	if err := p.Check(); err == nil {
		t.Error("Check returned nil for a program that has ended")
	}
}

// TestUntilTimeout proves that waiting ends with the context, and that the error names the
// condition and the last failure.
func TestUntilTimeout(t *testing.T) {
	p := newProcess(t, "echo hello; exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cause := errors.New("it is not")
	err := p.Until(ctx, "it is ready", func(context.Context) error { return cause })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cause) ||
		!strings.Contains(err.Error(), "it is ready") {
		t.Errorf("got %v", err)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
}

// TestStop proves that Stop ends a program gracefully, and that Stop and Kill may be called again.
func TestStop(t *testing.T) {
	p := newProcess(t, `trap 'echo good night; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	if _, err := p.Await(t.Context(), regexp.MustCompile("ready")); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if got := p.Tail(); !strings.Contains(got, "good night") {
		t.Errorf("got output %q", got)
	}
	p.Stop()
	p.Kill()
}
