package nodecmd

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

	"ginnel/internal/cli"
	"ginnel/internal/cli/proxyenv"
	"ginnel/internal/cli/statedir"
	"ginnel/internal/sys"
)

const (
	// readyFDName is the environment variable with the file descriptor to which a process in the
	// background reports.
	readyFDName = "_GINNEL_READY_FD"
	// detachGrace is how much longer than --timeout the report may take.
	detachGrace = 10 * time.Second
	// endPatience is how long a process in the background may take to end before it is killed.
	endPatience = 5 * time.Second
)

// upOptions are the flags of up.
type upOptions struct {
	*nodeOptions
	detach bool
	env    cli.Parsed[proxyenv.Format]
}

func (o *upOptions) addFlags(fs *pflag.FlagSet) {
	o.nodeOptions.addFlags(fs)
	o.env = cli.Parsed[proxyenv.Format]{Parse: proxyenv.ParseFormat, Kind: "format"}
	fs.BoolVar(&o.detach, "detach", false, "run in the background; return once the proxy can carry traffic")
	fs.Var(&o.env, "env", "with --detach, print the proxy variables in a `format`: sh, dotenv or github")
	fs.Lookup("env").NoOptDefVal = string(proxyenv.Shell)
}

// checkDetach makes sure that --env is given only where its output can be used.
func (o *upOptions) checkDetach() error {
	if o.env.Value == "" {
		return nil
	}
	if !o.detach {
		return cli.Usagef("--env is only for --detach: nothing could read the variables while the node runs")
	}
	for _, a := range o.local.proxies.Values {
		if a.Network() == "tcp" {
			return nil
		}
	}
	return cli.Usagef("--env wants a --proxy on a TCP port: the variables cannot name another")
}

// news is a report of a process in the background: one line of JSON.
type news struct {
	Login   string   `json:"login,omitempty"` // where the node can be approved
	Ready   bool     `json:"ready,omitempty"`
	Proxies []string `json:"proxies,omitempty"` // once it is ready
	Error   string   `json:"error,omitempty"`
}

// reporter sends news to the process in the foreground. It does nothing if w is nil.
type reporter struct{ w io.WriteCloser }

// newReporter returns a reporter to the process that waits for this one. If this process is in the
// foreground, the reporter does nothing.
func newReporter(p cli.Program) reporter {
	fd, err := strconv.ParseUint(p.Getenv(readyFDName), 10, 16)
	if err != nil || fd < 3 {
		return reporter{}
	}
	return reporter{inheritedFile(uintptr(fd))}
}

func (r reporter) inBackground() bool { return r.w != nil }

func (r reporter) tell(n news) {
	if r.w != nil {
		json.NewEncoder(r.w).Encode(n) // fails only if the reader has gone
	}
}

// end sends the last news.
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

// runDetached runs this command in the background until its node is ready.
func (o *upOptions) runDetached(cmd *cobra.Command, p cli.Program) error {
	if err := checkReadableAgain(cmd.Flags(), p); err != nil {
		return err
	}
	b, err := startBackground(cmd.Flags(), o.nodeOptions, p)
	if err != nil {
		return err
	}
	defer b.news.Close()
	ready, err := b.await(cmd.Context(), o.timeout, p)
	if err != nil {
		return err
	}
	pid := b.cmd.Process.Pid
	b.cmd.Process.Release()
	if o.env.Value != "" {
		proxy, _ := proxyenv.Reachable(ready.Proxies)
		return o.env.Value.Print(p.Stdout, p.Stderr,
			proxyenv.Variables(proxyenv.Access{HostPort: proxy, Auth: o.local.proxyAuth.Value}, p), o.local.proxyAuth.Value)
	}
	_, err = fmt.Fprintf(p.Stdout, "up: proxy %s, process %d; 'ginnel down' ends it\n", strings.Join(ready.Proxies, ", "),
		pid)
	return err
}

// checkReadableAgain refuses files that can be read only once, such as /dev/stdin. This process has
// read them, and the one in the background has to read them too.
func checkReadableAgain(fs *pflag.FlagSet, p cli.Program) error {
	for _, name := range []string{"config", "wireguard", "ca-file"} {
		path := fs.Lookup(name).Value.String()
		if path == "" {
			path = p.Getenv(cli.EnvName(name))
		}
		if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
			return cli.Usagef("--%s %s is no regular file, which --detach wants: the process in the background reads it, too",
				name, path)
		}
	}
	return nil
}

func startBackground(fs *pflag.FlagSet, o *nodeOptions, p cli.Program) (*background, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &background{cmd: exec.Command(self)}
	args, secrets := hideSecrets(fs, p.Args)
	b.cmd.Args = args
	b.cmd.Env = proxyenv.With(p.Environ(), append(secrets, proxyenv.Variable{Name: readyFDName, Value: "3"}))
	b.cmd.SysProcAttr = sys.OwnSession()
	log, err := b.openLog(o, p)
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
	if err := p.Reaper.Start(b.cmd); err != nil {
		r.Close()
		return nil, fmt.Errorf("starting in the background: %w", err)
	}
	b.news = r
	return b, nil
}

// openLog opens the file for the output of the process. There is none for an ephemeral node, which
// leaves no trace.
func (b *background) openLog(o *nodeOptions, p cli.Program) (*os.File, error) {
	dir := o.state
	if dir == "" {
		dir = statedir.Default(p)
	}
	if dir == statedir.Memory || dir == "" {
		return nil, cli.Usagef("--detach wants a state directory (--state DIR), by which 'ginnel down' finds the node")
	}
	if statedir.IsLocked(dir) {
		return nil, fmt.Errorf("another ginnel runs on the state directory %s; stop it, or name another with --state", dir)
	}
	if o.join.ephemeral {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	if err := statedir.CheckPrivate(dir); err != nil {
		return nil, err
	}
	b.log = filepath.Join(dir, "node.log")
	return os.OpenFile(b.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
}

// await reads news until the node is ready or the process has ended.
func (b *background) await(ctx context.Context, timeout time.Duration, p cli.Program) (news, error) {
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
			fmt.Fprintf(p.Stderr, "ginnel: to let this node into the network, open %s\n", n.Login)
		case err == nil:
			said = n.Error
		case errors.Is(err, os.ErrDeadlineExceeded):
			b.stop()
			if ctx.Err() != nil {
				return n, errors.New("interrupted before the node was ready; it was stopped")
			}
			return n, cli.WithStatus(cli.ExitTimeout,
				fmt.Errorf("the process in the background has not said anything for %v; it was stopped", timeout+detachGrace))
		default:
			return n, b.failure(said)
		}
	}
}

// stop ends the process, and kills it after endPatience.
func (b *background) stop() {
	b.cmd.Process.Signal(endSignal)
	kill := time.AfterFunc(endPatience, func() { b.cmd.Process.Kill() })
	defer kill.Stop()
	b.cmd.Wait()
}

// failure returns why the process has ended. said is its own last error, if it sent one.
func (b *background) failure(said string) error {
	err := b.cmd.Wait()
	status := cli.ExitFailure
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() > 0 {
		status = e.ExitCode()
	}
	switch {
	case said != "":
		err = errors.New(said)
	case b.log != "":
		err = fmt.Errorf("the process in the background has ended before it was ready (%v); see %s", b.cmd.ProcessState,
			b.log)
	default:
		err = fmt.Errorf("the process in the background has ended before it was ready (%v)", b.cmd.ProcessState)
	}
	return cli.WithStatus(status, err)
}

// inheritedFile returns a file that this process has inherited.
func inheritedFile(fd uintptr) *os.File {
	sys.CloseOnExec(fd)
	return os.NewFile(fd, "ready")
}
