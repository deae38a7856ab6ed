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

// nobody is the user and group ID of the program under test.
const nobody = 65534

// privileges is the user and the capabilities that a program runs with.
type privileges int

const (
	asNobody privileges = iota // no capabilities, and no way to gain any
	asRoot
)

// command describes a program to run in a namespace.
type command struct {
	as     privileges
	args   []string
	env    []string // besides PATH
	before []string // programs that run first, as root: they set limits and mounts and exec the rest
}

// line is the command line that runs c in n. It stays one process, because each program execs the
// next.
func (c *command) line(n *netns) []string {
	line := append([]string{"ip", "netns", "exec", n.name}, c.before...)
	line = append(line, "setpriv", "--pdeathsig", "KILL")
	if c.as == asNobody {
		line = append(line, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
			"--inh-caps=-all")
	}
	return append(line, c.args...)
}

func (c *command) exec(n *netns) *exec.Cmd {
	line := c.line(n)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.env...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // children may keep the output open
	return cmd
}

// process is a program that runs in the background of a test.
type process struct {
	t           *testing.T
	name        string
	cmd         *exec.Cmd
	in          io.WriteCloser
	out         transcript // standard output
	log         transcript // standard error
	done        chan struct{}
	err         error // from Wait; valid after done is closed
	endExpected bool  // the test has ended the program or waits for its end
}

// start starts a program in the namespace. It is killed at the end of the test, and must not end by
// itself before.
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
	} else if !p.endExpected {
		p.t.Errorf("%s ended by itself: %v", p.name, p.err)
	}
	if p.t.Failed() {
		p.t.Logf("%s wrote to standard output:\n%s", p.name, tail(p.out.String()))
		p.t.Logf("%s wrote to standard error:\n%s", p.name, tail(p.log.String()))
	}
}

// tail returns the end of s, as much as fits into the report of a failed test.
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
	p.endExpected = true
	p.cmd.Process.Kill()
	<-p.done
}

// endTimeout is how long a program may take to end after SIGTERM.
const endTimeout = 10 * time.Second

// terminate sends SIGTERM and returns the exit status and how long the program took to end.
func (p *process) terminate() (status int, took time.Duration) {
	p.t.Helper()
	start := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait(endTimeout), time.Since(start)
}

// wait waits until the program has ended and returns its exit status.
func (p *process) wait(limit time.Duration) int {
	p.t.Helper()
	p.endExpected = true
	select {
	case <-p.done:
	case <-time.After(limit):
		p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program then prints its goroutines
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

// transcript collects the output of a program. It may be read while the program runs.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// maxTranscript bounds the output of one program that is kept, in bytes. The rest is dropped.
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

// await waits until the program has written text, and returns its output up to the end of that
// line.
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
			p.endExpected = true
			p.t.Fatalf("%s ended (%v) before it wrote %q", p.name, p.err, text)
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s did not write %q within %v", p.name, text, limit)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// result is the output and exit status of a program that has ended.
type result struct {
	stdout, stderr string
	status         int
}

// runLimit bounds how long run waits for a program.
const runLimit = 30 * time.Second

// run runs c in the namespace until it ends, with input as its standard input.
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

// tool runs an installed program in the namespace as root.
func (n *netns) tool(args ...string) result {
	n.t.Helper()
	return n.run(command{as: asRoot, args: args}, "")
}

// newDir makes a directory that belongs to the user nobody, and removes it at the end of the test.
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

// writeFile writes a file that belongs to the user nobody, and returns its path.
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
