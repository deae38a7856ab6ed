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

// Times that are allowed. On an idle machine everything happens in a fraction of them.
const (
	patience = 30 * time.Second
	interval = 50 * time.Millisecond
)

// process is a program that runs beside a test.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	out   transcript
	donec chan struct{}
	err   error // of the end; once donec is closed
	over  bool  // it was asked to end
}

// start starts a program until the test ends. If it ends before, by itself, that fails the test.
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
	} else if !p.over {
		p.t.Errorf("%s ended by itself: %v", p.name, p.err)
	}
	if p.t.Failed() {
		p.t.Logf("%s wrote:\n%s", p.name, tail(p.out.String()))
	}
}

// tail is what fits into the report of a failure.
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

// ticks is how many of its units the kernel counts in a second.
const ticks = 100

// cpu is how long the program has computed; of one that has ended, all in all.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		<-p.donec
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may be anything
	f := strings.Fields(rest)
	if len(f) < 13 {
		t.Fatalf("the kernel says of %s: %s", p.name, b)
	}
	var sum int64
	for _, s := range f[11:13] { // in user space and in the kernel
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

// kill ends the program as a power cut would.
func (p *process) kill() {
	p.over = true
	p.cmd.Process.Kill()
	<-p.donec
}

// stop asks the program to end, and waits for that.
func (p *process) stop() {
	p.t.Helper()
	p.over = true
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.donec:
	case <-time.After(patience):
		p.kill()
		p.t.Errorf("%s did not end when it was asked to", p.name)
	}
}

// await waits until the program has written text.
func (p *process) await(text string) {
	p.t.Helper()
	p.match(regexp.QuoteMeta(text))
}

// match waits until the program has written what expr matches, and returns that.
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

// transcript is what a program has written.
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

// run runs a program to its end and returns what it wrote to standard output.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := try(cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return out
}

// try is run for programs that may fail. With the error it returns all that the program wrote.
func try(cmd *exec.Cmd) (string, error) {
	var out, all transcript
	cmd.Stdout, cmd.Stderr = tee{&out, &all}, &all
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer limit.Stop()
	if err := cmd.Wait(); err != nil {
		return all.String(), err
	}
	return out.String(), nil
}

// tee writes to both.
type tee [2]*transcript

func (w tee) Write(b []byte) (int, error) {
	w[0].Write(b)
	return w[1].Write(b)
}

// eventually waits until done reports true, and says how long that took.
func eventually(t *testing.T, what string, done func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !done() {
		if time.Since(begun) > patience {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(interval)
	}
	return time.Since(begun)
}
