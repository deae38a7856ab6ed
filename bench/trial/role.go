package trial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"ginnel/bench/derpload"
	"ginnel/bench/load"
	"ginnel/bench/netlab"
	"ginnel/bench/peer"
)

// Roles of processes of this program on hosts of the lab. The role is the first argument. A
// measuring role gets its specification as JSON in the second argument, and writes its figures as
// JSON to standard output.
const (
	holdRole    = "hold"    // keeps a namespace until standard input ends
	serveRole   = "serve"   // runs the service
	loadRole    = "load"    // measures through a proxy
	relayedRole = "relayed" // measures a relay
	emulateRole = "emulate" // emulates a path
	forwardRole = "forward" // forwards TCP connections
)

// RunRole runs a role. Known is false if the arguments do not name one.
func RunRole(ctx context.Context, args []string, in io.Reader, out io.Writer) (known bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch role, rest := args[0], args[1:]; role {
	case holdRole:
		_, err := io.Copy(io.Discard, in)
		return true, err
	case serveRole:
		return true, load.Run(ctx, fmt.Sprintf(":%d", peer.ServicePort), out)
	case loadRole:
		return true, measureRole(ctx, rest, out, load.Measure)
	case relayedRole:
		return true, measureRole(ctx, rest, out, derpload.Measure)
	case emulateRole:
		return true, netlab.Emulate(ctx, rest, out)
	case forwardRole:
		if len(rest) != 2 {
			return true, errors.New("forwarding: need a listen address and a target address")
		}
		return true, load.Forward(ctx, rest[0], rest[1], peer.Forwarding, out)
	}
	return false, nil
}

func measureRole[Spec any](ctx context.Context, args []string, out io.Writer,
	measure func(context.Context, Spec) (load.Figures, error)) error {
	if len(args) != 1 {
		return errors.New("reading the specification: need one argument")
	}
	var s Spec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	f, err := measure(ctx, s)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(f)
}

// Hold returns the command that keeps the namespace of a host.
func Hold() *exec.Cmd { return exec.Command("/proc/self/exe", holdRole) }

// Emulate returns the command that emulates a path.
func Emulate(args ...string) *exec.Cmd {
	return exec.Command("/proc/self/exe", append([]string{emulateRole}, args...)...)
}

// Forward returns the command of a TCP forwarder, without its addresses.
func Forward() []string { return []string{self(), forwardRole} }

// self is the executable of this program, in a form that other processes can use.
func self() string { return fmt.Sprintf("/proc/%d/exe", os.Getpid()) }

// serve starts the service and waits until it listens.
func (r *run) serve(ctx context.Context) (*netlab.Process, error) {
	p, err := r.bed.Lab.Start("service", r.trial.Service.Command(r.bed.Dir, self(), serveRole))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	if _, err := p.Await(ctx, regexp.MustCompile(load.Serving)); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// probe is a process that measures.
type probe struct {
	cmd       *exec.Cmd
	out       bytes.Buffer
	complaint bytes.Buffer
}

func (r *run) measure(ctx context.Context, s load.Spec) (load.Figures, error) {
	p, err := r.begin(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit+20*s.Duration+s.Warmup)
	defer cancel()
	return p.result(ctx)
}

func (r *run) begin(s load.Spec) (*probe, error) { return send(r, loadRole, s) }

func (r *run) measureRelay(ctx context.Context, s derpload.Spec) (load.Figures, error) {
	p, err := send(r, relayedRole, s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit+s.Duration)
	defer cancel()
	return p.result(ctx)
}

// send starts a measuring role on the client's host.
func send[Spec any](r *run, role string, s Spec) (*probe, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	p := &probe{cmd: r.trial.Client.Command(r.bed.Dir, self(), role, string(b))}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.complaint
	p.cmd.WaitDelay = time.Second
	return p, p.cmd.Start()
}

// result waits for the figures of the process.
func (p *probe) result(ctx context.Context) (load.Figures, error) {
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	defer stop()
	if err := p.cmd.Wait(); err != nil {
		return nil, errors.Join(errors.New(strings.TrimSpace(p.complaint.String())), err, ctx.Err())
	}
	var f load.Figures
	if err := json.Unmarshal(p.out.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("reading figures: %w: %s", err, p.out.Bytes())
	}
	return f, nil
}

// abandon kills the process.
func (p *probe) abandon() error {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	return nil
}
