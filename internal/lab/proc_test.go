//go:build lab

package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// nobody is the user that the program under test runs as.
const nobody = 65534

// rights says as whom a program runs.
type rights int

const (
	withoutRights rights = iota // as nobody, without capabilities and without a way to get any
	asRoot
)

// command describes a program to run in a namespace.
type command struct {
	rights rights
	args   []string
	env    []string // besides PATH
	before []string // put before the program, as root: for limits and mounts
}

// line is the command line that runs c in n. It is all one process: each program becomes the next.
func (c *command) line(n *netns) []string {
	line := append([]string{"ip", "netns", "exec", n.name}, c.before...)
	line = append(line, "setpriv", "--pdeathsig", "KILL")
	if c.rights == withoutRights {
		line = append(line, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
	}
	return append(line, c.args...)
}

func (c *command) exec(n *netns) *exec.Cmd {
	line := c.line(n)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.env...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // for children that hold on to its output
	return cmd
}

// process is a program that runs beside a test.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  transcript // standard output
	log  transcript // standard error
	done chan struct{}
	err  error // of the end; after done
	over bool  // its end was asked for, or waited for
}

// start starts a program, which is killed at the end of the test unless it has ended before.
func (n *netns) start(name string, c command) *process {
	n.t.Helper()
	p := &process{t: n.t, name: name, cmd: c.exec(n), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	in, err := p.cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.t.Cleanup(p.cleanUp)
	return p
}

func (p *process) cleanUp() {
	if p.running() {
		p.kill()
	} else if !p.over {
		p.t.Errorf("%s ended by itself: %v", p.name, p.err)
	}
	if p.t.Failed() {
		p.t.Logf("%s wrote to standard output:\n%s", p.name, tail(p.out.String()))
		p.t.Logf("%s wrote to standard error:\n%s", p.name, tail(p.log.String()))
	}
}

// tail is what fits into the report of a failure.
func tail(s string) string {
	const most = 6 << 10
	if len(s) > most {
		return "..." + s[len(s)-most:]
	}
	return s
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) kill() {
	p.over = true
	p.cmd.Process.Kill()
	<-p.done
}

// endTimeout is how long a program may take to end when it is asked to.
const endTimeout = 10 * time.Second

// terminate asks the program to end and returns its exit status, and how long it took.
func (p *process) terminate() (status int, took time.Duration) {
	p.t.Helper()
	start := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait(endTimeout), time.Since(start)
}

// wait waits for the program to end by itself and returns its exit status.
func (p *process) wait(limit time.Duration) int {
	p.t.Helper()
	p.over = true
	select {
	case <-p.done:
	case <-time.After(limit):
		p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program tells where it hangs
		time.Sleep(200 * time.Millisecond)
		p.kill()
		p.t.Errorf("%s did not end within %v", p.name, limit)
	}
	return exitStatus(p.err)
}

func exitStatus(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// transcript is what a program has written so far.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// maxTranscript bounds what is kept of one program.
const maxTranscript = 64 << 20

// Write implements io.Writer.
func (w *transcript) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.b.Len() < maxTranscript {
		w.b.Write(b)
	}
	return len(b), nil
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// await waits until the program has written text, and returns all of it up to there and the rest of
// that line.
func (p *process) await(w *transcript, text string, limit time.Duration) string {
	p.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		all := w.String()
		if i := strings.Index(all, text); i >= 0 {
			if end := strings.IndexByte(all[i:], '\n'); end >= 0 {
				return all[:i+end]
			}
		}
		if !p.running() {
			p.over = true
			p.t.Fatalf("%s ended (%v) before it wrote %q", p.name, p.err, text)
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s did not write %q within %v", p.name, text, limit)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// result is what a program that ran to its end has left.
type result struct {
	stdout, stderr string
	status         int
}

// runLimit bounds a program that is run to its end.
const runLimit = 30 * time.Second

// run runs a program to its end as c says, with input.
func (n *netns) run(c command, input string) result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	cmd := c.exec(n)
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	limited.Env, limited.Dir = cmd.Env, cmd.Dir
	limited.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	limited.Stdout, limited.Stderr = &stdout, &stderr
	err := limited.Run()
	if ctx.Err() != nil {
		n.t.Errorf("%s did not end within %v", strings.Join(c.args, " "), runLimit)
	}
	return result{stdout.String(), stderr.String(), exitStatus(err)}
}

// tool runs a program of the machine as root.
func (n *netns) tool(args ...string) result {
	n.t.Helper()
	return n.run(command{rights: asRoot, args: args}, "")
}

// newDir makes a directory for one test that nobody owns.
func newDir(t *testing.T, what string) string {
	t.Helper()
	dir, err := os.MkdirTemp(programs.dir, what+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// writeFile makes a file in such a directory.
func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return path
}
