package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/internal/sys"
)

const (
	// readyFDName is the variable that tells a process in the background where to report that it is
	// ready, or why not.
	readyFDName = "_GINNEL_READY_FD"
	// detachGrace is for what a process in the background does besides waiting.
	detachGrace = 10 * time.Second
	// endPatience is for its end, when it is not wanted any more.
	endPatience = 5 * time.Second
)

// upFlags are those that up alone has.
type upFlags struct {
	detach bool
	env    parsed[envFormat]
}

func (u *upFlags) add(fs *pflag.FlagSet) {
	u.env = parsed[envFormat]{parse: parseEnvFormat, typ: "format"}
	fs.BoolVar(&u.detach, "detach", false, "run in the background; return once the proxy can carry traffic")
	fs.Var(&u.env, "env", "with --detach, print the proxy variables in a `format`: sh, dotenv or github")
	fs.Lookup("env").NoOptDefVal = string(envShell)
}

func (u *upFlags) check(f *nodeFlags) error {
	if u.env.value == "" {
		return nil
	}
	if !u.detach {
		return usagef("--env is only for --detach: nothing could read the variables while the node runs")
	}
	for _, a := range f.proxies.values {
		if a.Network() == "tcp" {
			return nil
		}
	}
	return usagef("--env wants a --proxy on a TCP port: the variables cannot name another")
}

// news is what a process in the background reports, each a line of JSON.
type news struct {
	Login   string   `json:"login,omitempty"` // where the node can be approved
	Ready   bool     `json:"ready,omitempty"`
	Proxies []string `json:"proxies,omitempty"` // once it is ready
	Error   string   `json:"error,omitempty"`
}

// reporter is where news goes; nowhere if w is nil.
type reporter struct{ w io.WriteCloser }

// newReporter finds the process that waits for this one; none if this one runs in the foreground.
func newReporter(p program) reporter {
	fd, err := strconv.ParseUint(p.getenv(readyFDName), 10, 16)
	if err != nil || fd < 3 {
		return reporter{}
	}
	return reporter{inheritedFile(uintptr(fd))}
}

func (r reporter) inBackground() bool { return r.w != nil }

func (r reporter) tell(n news) {
	if r.w != nil {
		json.NewEncoder(r.w).Encode(n) // whoever has gone does not need it
	}
}

// end tells what there is to tell last.
func (r reporter) end(n news) {
	r.tell(n)
	if r.w != nil {
		r.w.Close()
	}
}

// background is the process that runs the node for up --detach.
type background struct {
	cmd  *exec.Cmd
	news *os.File
	log  string // file; empty: none
}

// detach runs this command in the background until its node is ready.
func detach(cmd *cobra.Command, f *nodeFlags, u *upFlags, p program) error {
	if err := checkReadableAgain(cmd.Flags(), p); err != nil {
		return err
	}
	b, err := startBackground(cmd.Flags(), f, p)
	if err != nil {
		return err
	}
	defer b.news.Close()
	ready, err := b.await(cmd.Context(), f.timeout, p)
	if err != nil {
		return err
	}
	pid := b.cmd.Process.Pid
	b.cmd.Process.Release()
	if u.env.value != "" {
		proxy, _ := reachableProxy(ready.Proxies)
		return u.env.value.print(p.stdout, p.stderr, proxyVariables(proxyAccess{hostPort: proxy, auth: f.proxyAuth.value}, p), f.proxyAuth.value)
	}
	_, err = fmt.Fprintf(p.stdout, "up: proxy %s, process %d; 'ginnel down' ends it\n", strings.Join(ready.Proxies, ", "), pid)
	return err
}

// checkReadableAgain refuses files that only one process can read, such as /dev/stdin: this one
// has, and the one in the background would have to.
func checkReadableAgain(fs *pflag.FlagSet, p program) error {
	for _, name := range []string{"config", "wireguard", "ca-file"} {
		path := fs.Lookup(name).Value.String()
		if path == "" {
			path = p.getenv(envName(name))
		}
		if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
			return usagef("--%s %s is no regular file, which --detach wants: the process in the background reads it, too",
				name, path)
		}
	}
	return nil
}

func startBackground(fs *pflag.FlagSet, f *nodeFlags, p program) (*background, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &background{cmd: exec.Command(self)}
	args, secrets := hideSecrets(fs, p.args)
	b.cmd.Args = args
	b.cmd.Env = withVariables(p.environ(), append(secrets, variable{readyFDName, "3"}))
	b.cmd.SysProcAttr = sys.OwnSession()
	log, err := b.openLog(f, p)
	if err != nil {
		return nil, err
	}
	if log != nil {
		defer log.Close()
		b.cmd.Stdout, b.cmd.Stderr = log, log
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	b.cmd.ExtraFiles = []*os.File{w}
	if err := p.reaper.start(b.cmd); err != nil {
		r.Close()
		return nil, fmt.Errorf("starting in the background: %w", err)
	}
	b.news = r
	return b, nil
}

// openLog makes the file for what the process says; none for a node that is to leave no trace.
func (b *background) openLog(f *nodeFlags, p program) (*os.File, error) {
	dir := f.state
	if dir == "" {
		dir = defaultState(p)
	}
	if dir == memState || dir == "" {
		return nil, usagef("--detach wants a state directory (--state DIR), by which 'ginnel down' finds the node")
	}
	if isLocked(dir) {
		return nil, fmt.Errorf("another ginnel runs on the state directory %s; stop it, or name another with --state", dir)
	}
	if f.ephemeral {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	b.log = filepath.Join(dir, "node.log")
	return os.OpenFile(b.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
}

// await reads the news up to the best, or to the end of the process.
func (b *background) await(ctx context.Context, timeout time.Duration, p program) (news, error) {
	b.news.SetReadDeadline(time.Now().Add(timeout + detachGrace))
	stop := context.AfterFunc(ctx, func() { b.news.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	in := json.NewDecoder(b.news)
	said := ""
	for {
		var n news
		err := in.Decode(&n)
		switch {
		case err == nil && n.Ready:
			return n, nil
		case err == nil && n.Login != "":
			fmt.Fprintf(p.stderr, "ginnel: to let this node into the network, open %s\n", n.Login)
		case err == nil:
			said = n.Error
		case errors.Is(err, os.ErrDeadlineExceeded):
			b.stop()
			if ctx.Err() != nil {
				return n, errors.New("interrupted before the node was ready; it was stopped")
			}
			return n, &statusError{exitTimeout, fmt.Errorf("the process in the background has not said anything for %v; it was stopped", timeout+detachGrace)}
		default:
			return n, b.failure(said)
		}
	}
}

// stop ends a process that is not wanted any more.
func (b *background) stop() {
	b.cmd.Process.Signal(endSignal)
	kill := time.AfterFunc(endPatience, func() { b.cmd.Process.Kill() })
	defer kill.Stop()
	b.cmd.Wait()
}

// failure is why the process has ended.
func (b *background) failure(said string) error {
	err := b.cmd.Wait()
	status := exitFailure
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() > 0 {
		status = e.ExitCode()
	}
	switch {
	case said != "":
		err = errors.New(said)
	case b.log != "":
		err = fmt.Errorf("the process in the background has ended before it was ready (%v); see %s", b.cmd.ProcessState, b.log)
	default:
		err = fmt.Errorf("the process in the background has ended before it was ready (%v)", b.cmd.ProcessState)
	}
	return &statusError{status, err}
}

// inheritedFile is one that the process was started with.
func inheritedFile(fd uintptr) *os.File {
	sys.CloseOnExec(fd)
	return os.NewFile(fd, "ready")
}
