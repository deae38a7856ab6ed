package programs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// waitLimit bounds all waiting, and interval is how often conditions are polled. On an idle machine
// everything takes a fraction of waitLimit.
const (
	waitLimit = 30 * time.Second
	interval  = 50 * time.Millisecond
)

// process is a program that runs in the background of a test.
type process struct {
	t           *testing.T
	name        string
	cmd         *exec.Cmd
	out         transcript
	donec       chan struct{}
	err         error // from Wait; valid once donec is closed
	endExpected bool  // the test has ended the program or expects its end
}

// start starts a program, which is killed at the end of the test. If it ends earlier by itself, the
// test fails.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, donec: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		defer close(p.donec)
		p.err = cmd.Wait()
	}()
	t.Cleanup(p.cleanUp)
	return p
}

func (p *process) cleanUp() {
	if p.running() {
		p.kill()
	} else if !p.endExpected {
		p.t.Errorf("%s ended by itself: %v", p.name, p.err)
	}
	if p.t.Failed() {
		p.t.Logf("%s wrote:\n%s", p.name, tail(p.out.String()))
	}
}

// tail returns the end of s, as much as fits into the report of a failed test.
func tail(s string) string {
	const most = 12 << 10
	if len(s) > most {
		return "..." + s[len(s)-most:]
	}
	return s
}

func (p *process) running() bool {
	select {
	case <-p.donec:
		return false
	default:
		return true
	}
}

// mustRun fails the test if the program has ended.
func (p *process) mustRun() {
	p.t.Helper()
	if !p.running() {
		p.t.Fatalf("%s ended: %v", p.name, p.err)
	}
}

// ticks is how many clock ticks of /proc/PID/stat are one second (USER_HZ).
const ticks = 100

// cpu returns the processor time that the program has used.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		<-p.donec
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the program's name in front may contain spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		t.Fatalf("unexpected process status of %s: %s", p.name, b)
	}
	var sum int64
	for _, s := range f[11:13] { // utime and stime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

// kill ends the program without warning, as a power failure would.
func (p *process) kill() {
	p.endExpected = true
	p.cmd.Process.Kill()
	<-p.donec
}

// stop sends SIGTERM and waits for the end of the program.
func (p *process) stop() {
	p.t.Helper()
	p.endExpected = true
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.donec:
	case <-time.After(waitLimit):
		p.kill()
		p.t.Errorf("%s did not end when it was asked to", p.name)
	}
}

// await waits until the program has written text.
func (p *process) await(text string) {
	p.t.Helper()
	p.match(regexp.QuoteMeta(text))
}

// match waits until the program's output matches expr, and returns the match.
func (p *process) match(expr string) string {
	p.t.Helper()
	re := regexp.MustCompile(expr)
	var found string
	eventually(p.t, p.name+" writes "+expr, func() bool {
		found = re.FindString(p.out.String())
		if found == "" {
			p.mustRun()
		}
		return found != ""
	})
	return found
}

// transcript collects the output of a program. It may be read while the program runs.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *transcript) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// run runs a program to its end and returns its standard output.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := try(cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return out
}

// try is run for programs that may fail. With an error it returns standard output and standard
// error.
func try(cmd *exec.Cmd) (string, error) {
	var out, all transcript
	cmd.Stdout, cmd.Stderr = tee{&out, &all}, &all
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	limit := time.AfterFunc(waitLimit, func() { cmd.Process.Kill() })
	defer limit.Stop()
	if err := cmd.Wait(); err != nil {
		return all.String(), err
	}
	return out.String(), nil
}

// tee writes to both transcripts.
type tee [2]*transcript

func (w tee) Write(b []byte) (int, error) {
	w[0].Write(b)
	return w[1].Write(b)
}

// eventually waits until done reports true, and returns how long that took.
func eventually(t *testing.T, what string, done func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !done() {
		if time.Since(begun) > waitLimit {
			t.Fatalf("%s: not within %v", what, waitLimit)
		}
		time.Sleep(interval)
	}
	return time.Since(begun)
}
