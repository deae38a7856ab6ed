package nodecmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"ginnel/internal/cli"
	"ginnel/internal/sys"
)

// Exit statuses of shells for a command that was not run.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
)

// signalPatience is how long a signal that has ended the context may take to reach the channel of
// signals.
const signalPatience = 100 * time.Millisecond

// child is the command that run runs. It catches signals for this process from the start, and
// passes them to the command once that runs.
type child struct {
	name    string
	cmd     *exec.Cmd
	signals chan os.Signal
	reaper  *cli.Reaper

	startc chan error    // has an item when the command was started, or could not be
	endc   chan struct{} // closed when it has ended
	waited error         // result of Wait; set before endc is closed
	wg     sync.WaitGroup
}

// newChild finds the command.
func newChild(p cli.Program, args []string) (*child, error) {
	cmd := exec.Command(args[0], args[1:]...)
	if errors.Is(cmd.Err, exec.ErrDot) {
		cmd.Err = nil // the working directory is in PATH on purpose
	}
	if cmd.Err != nil {
		return nil, notRun(args[0], cmd.Err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	cmd.SysProcAttr = sys.DieWithParent()
	c := &child{name: args[0], cmd: cmd, signals: make(chan os.Signal, 64), reaper: p.Reaper, startc: make(chan error, 1),
		endc: make(chan struct{})}
	passed := slices.DeleteFunc(passedSignals(), signal.Ignored) // the command inherits that
	signal.Notify(c.signals, passed...)
	return c, nil
}

// notRun is the error of a command that could not be started.
func notRun(name string, err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	} else if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return cli.WithStatus(exitNotFound, fmt.Errorf("%s: command not found", name))
	}
	return cli.WithStatus(exitNotRunnable, fmt.Errorf("%s: %w", name, err))
}

func (c *child) stopSignals() { signal.Stop(c.signals) }

// firstEnding returns the first signal that asks this process to end. It may arrive a moment after
// it has ended the context.
func (c *child) firstEnding() (os.Signal, bool) {
	timer := time.NewTimer(signalPatience)
	defer timer.Stop()
	for {
		select {
		case s := <-c.signals:
			if s == os.Interrupt || s == syscall.SIGTERM || s == syscall.SIGHUP {
				return s, true
			}
		case <-timer.C:
			return nil, false
		}
	}
}

// run runs the command to its end. The error has the exit status, unless that is 0.
func (c *child) run(n *runningNode) error {
	restorePipeSignal()
	c.wg.Go(c.live)
	defer c.wg.Wait()
	if err := <-c.startc; err != nil {
		return notRun(c.name, err)
	}
	askc, endc := n.askc, n.endc
	for {
		select {
		case s := <-c.signals:
			if !sentByTerminal(s) {
				c.cmd.Process.Signal(s) // fails only if the command has just ended
			}
		case <-askc:
			askc = nil
			c.cmd.Process.Signal(endSignal)
		case <-endc:
			endc = nil
			n.log.Error("the node has ended before the command", "err", n.ended)
		case <-c.endc:
			return c.status()
		}
	}
}

// live starts the command and waits for its end on one thread, because the system kills the command
// when the thread that started it ends.
func (c *child) live() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.endc)
	err := c.reaper.Start(c.cmd)
	c.startc <- err
	if err == nil {
		c.waited = c.cmd.Wait()
		c.reaper.Waited(c.cmd.Process.Pid)
	}
}

// status is how the command has ended.
func (c *child) status() error {
	state := c.cmd.ProcessState
	switch {
	case state == nil:
		return fmt.Errorf("waiting for %s: %w", c.name, c.waited)
	case state.Success():
		return nil
	}
	if s, signalled := sys.DeathSignal(state); signalled {
		return cli.ChildStatus(128 + int(s))
	}
	return cli.ChildStatus(state.ExitCode())
}
