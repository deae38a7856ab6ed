package nodecmd

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"ginnel/internal/cli"
	"ginnel/internal/cli/statedir"
)

// A node that is ready soon is noticed at once. One that has to wait for long is asked rarely.
func TestJoinPause(t *testing.T) {
	for _, c := range []struct{ waited, want time.Duration }{
		{0, joinPoll},
		{time.Second, joinPoll},
		{10 * time.Second, 200 * time.Millisecond},
		{time.Minute, joinPollMax},
		{24 * time.Hour, joinPollMax},
	} {
		if got := joinPause(c.waited); got != c.want {
			t.Errorf("after %v: %v, want %v", c.waited, got, c.want)
		}
	}
}

// A node lowers GOMAXPROCS, unless --tuning is off. Either way it plans for all processors that it
// may use, and keeps the memory budget.
func TestTuningFlag(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	file := filepath.Join(t.TempDir(), "wg0.conf")
	text := "[Interface]\nPrivateKey = " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)) +
		"\nAddress = 10.9.9.1/32\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode string
		want int
	}{{"off", 3}, {"on", 1}} {
		runtime.GOMAXPROCS(3)
		o, fs := newNodeOptions("127.0.0.1:0"), pflag.NewFlagSet("up", pflag.ContinueOnError)
		o.addFlags(fs)
		if err := fs.Parse([]string{"--wireguard", file, "--state", statedir.Memory, "--tuning", c.mode, "--memory",
			"32MiB"}); err != nil {
			t.Fatal(err)
		}
		n, err := o.start(cli.Program{Getenv: os.Getenv, Environ: os.Environ, Stderr: os.Stderr},
			slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("--tuning %s: GOMAXPROCS is %d, want %d", c.mode, got, c.want)
		}
		if got, want := n.tuning.Memory(), int64(32<<20); got != want {
			t.Errorf("--tuning %s: a budget of %d bytes, want %d", c.mode, got, want)
		}
		if got := n.tuning.Processors(); got != 3 {
			t.Errorf("--tuning %s: planned for %d processors, want 3", c.mode, got)
		}
		n.close()
	}
}
