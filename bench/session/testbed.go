package session

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/bench/report"
	"ginnel/bench/trial"
)

// Testbed is a network in the namespace of this process, and a directory for the output of
// programs.
type Testbed struct {
	peer.Testbed
	dir string
}

// NewTestbed creates the network. For tcpBuffer see [netlab.Config].
func NewTestbed(programs peer.Programs, tcpBuffer int) (*Testbed, error) {
	dir, err := os.MkdirTemp("", "ginnel-bench-")
	if err != nil {
		return nil, err
	}
	lab, err := netlab.New(netlab.Config{Dir: dir, Hold: trial.Hold, Emulate: trial.Emulate, TCPBuffer: tcpBuffer})
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("making the network: %w", err)
	}
	return &Testbed{peer.Testbed{Lab: lab, Programs: programs, Dir: dir, Forward: trial.Forward()}, dir}, nil
}

// Close ends all programs and removes their output.
func (g *Testbed) Close() error {
	g.Lab.Close()
	return os.RemoveAll(g.dir)
}

// NewRun describes a run that begins now.
func (o *Options) NewRun(ctx context.Context) report.Run {
	return report.Run{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: commit(ctx, o.Root), Machine: machine(), Smoke: o.Smoke,
		Rounds: o.Rounds, Seconds: o.Seconds, Versions: peer.Versions(o.Programs, o.Contenders),
	}
}

// commit returns the last commit that changed the product.
func commit(ctx context.Context, root string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%h", "--",
		"*.go", "go.mod", ":!bench", ":!interop", ":!*_test.go").Output()
	if text := strings.TrimSpace(string(out)); err == nil && text != "" {
		return text
	}
	return "unknown"
}

// machine describes the processors, the kernel and the load of this machine.
func machine() string {
	name := runtime.GOARCH
	b, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range bytes.Lines(b) {
			if key, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.HasPrefix(key, []byte("model name")) {
				name = string(bytes.TrimSpace(value))
				break
			}
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, with %s processes running before", runtime.NumCPU(), name,
		bytes.TrimSpace(kernel), busy())
}

// busy returns the load average of the minute before the comparison.
func busy() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	average, _, _ := strings.Cut(string(b), " ")
	return average
}
