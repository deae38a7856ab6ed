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

// A process of this program on a machine of the lab has one of these roles, which is its first
// argument. What else it has to know is its second, as JSON; what it has found out it writes to
// standard output, as JSON.
const (
	holdRole    = "hold"    // keeps a namespace until standard input ends
	serveRole   = "serve"   // is the service
	loadRole    = "load"    // measures by way of a proxy
	relayedRole = "relayed" // measures a relay
	emulateRole = "emulate" // is a path
	forwardRole = "forward" // passes TCP connections on
)

// Play does what a role asks for. Known is false if the arguments are not those of a role.
func Play(ctx context.Context, args []string, in io.Reader, out io.Writer) (known bool, err error) {
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
		return true, play(ctx, rest, out, load.Measure)
	case relayedRole:
		return true, play(ctx, rest, out, derpload.Measure)
	case emulateRole:
		return true, netlab.Emulate(ctx, rest, out)
	case forwardRole:
		if len(rest) != 2 {
			return true, errors.New("forwarding: want the address to listen on and that to connect to")
		}
		return true, load.Forward(ctx, rest[0], rest[1], peer.Forwarding, out)
	}
	return false, nil
}

func play[Spec any](ctx context.Context, args []string, out io.Writer, measure func(context.Context, Spec) (load.Figures, error)) error {
	if len(args) != 1 {
		return errors.New("reading what to measure: it is one argument")
	}
	var s Spec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("reading what to measure: %w", err)
	}
	f, err := measure(ctx, s)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(f)
}

// Hold is what keeps the namespaces of a lab.
func Hold() *exec.Cmd { return exec.Command("/proc/self/exe", holdRole) }

// Emulate is what carries the frames of a path of a lab.
func Emulate(args ...string) *exec.Cmd {
	return exec.Command("/proc/self/exe", append([]string{emulateRole}, args...)...)
}

// Forward is the command of a TCP forwarder, without its addresses.
func Forward() []string { return []string{self(), forwardRole} }

// self is the file of this program, for other processes: theirs is another.
func self() string { return fmt.Sprintf("/proc/%d/exe", os.Getpid()) }

// serve starts the service and waits until it can be reached.
func (r *run) serve(ctx context.Context) (*netlab.Process, error) {
	p, err := r.ground.Lab.Start("service", r.trial.Service.Command(r.ground.Dir, self(), serveRole))
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

// send starts a role on the client's machine.
func send[Spec any](r *run, role string, s Spec) (*probe, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	p := &probe{cmd: r.trial.Client.Command(r.ground.Dir, self(), role, string(b))}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.complaint
	p.cmd.WaitDelay = time.Second
	return p, p.cmd.Start()
}

// result waits for what the process has to say.
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

// abandon ends the process.
func (p *probe) abandon() error {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	return nil
}
