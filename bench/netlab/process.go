package netlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

const (
	interval = 10 * time.Millisecond
	// stopTimeout is how long a program may take to end after SIGTERM.
	stopTimeout = 5 * time.Second
)

// Process is a running program.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	donec chan struct{}
	wg    sync.WaitGroup
	err   error // from Wait; valid once donec is closed
}

// Start starts a program. It is killed at the latest with the lab or with this process.
func (l *Lab) Start(name string, cmd *exec.Cmd) (*Process, error) {
	l.mu.Lock()
	number := len(l.all) + 1
	l.mu.Unlock()
	p := &Process{name: name, cmd: cmd, log: l.logPath(name, number), donec: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.wg.Go(p.wait)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p)
	return p, nil
}

func (p *Process) wait() {
	defer close(p.donec)
	p.err = p.cmd.Wait()
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill kills the program and waits for its end.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.donec
}

// Stop sends SIGTERM and waits for the end of the program.
func (p *Process) Stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.donec:
	case <-time.After(stopTimeout):
		p.Kill()
	}
}

// Check returns an error with the end of its output if the program has ended.
func (p *Process) Check() error {
	select {
	case <-p.donec:
		return fmt.Errorf("%s has ended: %v\n%s", p.name, p.err, p.Tail())
	default:
		return nil
	}
}

// Tail returns the end of the program's output.
func (p *Process) Tail() string {
	const most = 4 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// Await waits until the program's output matches expr, and returns the match.
func (p *Process) Await(ctx context.Context, expr *regexp.Regexp) (found string, err error) {
	err = p.Until(ctx, "its output matches "+expr.String(), func(context.Context) error {
		b, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		if found = expr.FindString(string(b)); found == "" {
			return fmt.Errorf("no match in %d bytes of output", len(b))
		}
		return nil
	})
	return found, err
}

// Until waits until check returns nil. It gives up when the program or the context ends.
func (p *Process) Until(ctx context.Context, what string, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ended := p.Check(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s until %s: %w: %w\n%s", p.name, what, ctx.Err(), err, p.Tail())
		case <-time.After(interval):
		}
	}
}
