package nodecmd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/statedir"
	"ginnel/node"
	"ginnel/tuning"
)

const (
	leavePatience = 3 * time.Second // for the server to forget an ephemeral node

	// A node that joins is asked whether it is ready after joinPoll at first. The pause grows with
	// the time waited, as 1/joinShare of it, up to joinPollMax, because a login may take days.
	joinPoll    = 20 * time.Millisecond
	joinShare   = 50
	joinPollMax = time.Second

	// noticeAfter is when the log says what a node that is not ready waits for.
	noticeAfter = 2 * time.Second
)

// runningNode is a node that a command runs, with its place in the file system and the tuning of
// the process. One goroutine runs the node (keep); close ends it.
type runningNode struct {
	*node.Node
	state  *statedir.Dir
	tuning *tuning.Process
	log    *slog.Logger
	leave  bool // the server is to forget the node at the end

	ask   sync.Once
	askc  chan struct{} // closed when the node was told to end by its API
	endc  chan struct{} // closed when the node has ended
	ended error         // why it ended by itself; set before endc is closed
	wg    sync.WaitGroup
}

// start starts the node that the flags describe.
func (o *nodeOptions) start(p cli.Program, log *slog.Logger) (*runningNode, error) {
	cfg, err := o.nodeConfig(p, log)
	if err != nil {
		return nil, err
	}
	if o.wireguard != "" {
		if err := o.useWireGuard(&cfg, log); err != nil {
			return nil, err
		}
	}
	r := &runningNode{log: log, leave: o.join.ephemeral, askc: make(chan struct{}), endc: make(chan struct{})}
	cfg.Shutdown = r.askToEnd
	if r.state, err = o.openState(p, log); err != nil {
		return nil, err
	}
	r.state.RemoveAtEnd = o.join.ephemeral
	if o.join.url != "" {
		if err := o.useControl(&cfg, r.state, p); err != nil {
			r.state.Close()
			return nil, err
		}
	}
	if r.tuning, err = tuning.Start(tuning.Config{Mode: o.tuning.Value, Memory: o.memory.Value, Log: log}); err != nil {
		r.state.Close()
		return nil, err
	}
	cfg.Tuning = r.tuning
	if r.Node, err = node.New(cfg); err != nil {
		r.tuning.Close()
		r.state.Close()
		if errors.Is(err, node.ErrServerUnprotected) {
			return nil, cli.Usagef("--control %s: %w, with --server-key mkey:…", o.join.url, node.ErrServerUnprotected)
		}
		return nil, o.portHint(err)
	}
	r.wg.Go(r.keep)
	if err := r.state.Publish(statedir.Running{PID: os.Getpid(), Proxies: r.Status().Proxies,
		Token: cfg.Token}); err != nil {
		if o.state != "" || o.join.url != "" && !o.join.ephemeral {
			r.close()
			return nil, err
		}
		warnNoState(log, err)
	}
	return r, nil
}

// useWireGuard sets the network from the wg-quick file.
func (o *nodeOptions) useWireGuard(cfg *node.Config, log *slog.Logger) error {
	wg, err := configs.LoadWireGuard(o.wireguard)
	if _, noFile := errors.AsType[*fs.PathError](err); noFile {
		return cli.NoFileError("--wireguard", o.wireguard, "--wireguard /etc/wireguard/wg0.conf", err)
	}
	if err != nil {
		return cli.Usage(err)
	}
	for _, w := range wg.Warnings {
		log.Warn("wireguard file", "warning", w.String())
	}
	cfg.Key, cfg.Map, cfg.MTU = wg.PrivateKey, wireGuardMap(wg), wg.MTU
	if cfg.UDPPort == 0 {
		cfg.UDPPort = wg.ListenPort
	}
	return nil
}

// meshMTU is the MTU of all nodes of a coordination server, in bytes.
const meshMTU = 1280

// useControl sets the network from the flags about the coordination server.
func (o *nodeOptions) useControl(cfg *node.Config, state *statedir.Dir, p cli.Program) error {
	if o.join.ephemeral {
		state = &statedir.Dir{} // the identity ends with the node
	}
	id, err := state.LoadIdentity()
	if err != nil {
		return err
	}
	hostname := o.join.hostname
	if hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			hostname = "node"
		}
	}
	routes, err := o.routes()
	if err != nil {
		return err
	}
	cfg.MTU = meshMTU
	cfg.Control = &node.Control{
		URL:          strings.TrimRight(o.join.url, "/"),
		ServerKey:    o.join.serverKey.Value,
		AuthKey:      string(o.join.authKey.Value),
		Identity:     id,
		Save:         state.SaveIdentity,
		SaveMap:      state.SaveMap,
		LastMap:      state.LoadMap,
		Hostname:     hostname,
		Tags:         o.join.tags,
		Ephemeral:    o.join.ephemeral,
		Login:        o.login(p),
		AcceptRoutes: o.join.acceptRoutes,
		ExitNode:     o.join.exitNode,

		AdvertiseRoutes: routes,
	}
	return nil
}

// login returns the function that shows the address of a login. It is nil if the log shows it.
func (o *nodeOptions) login(p cli.Program) func(url string) {
	if o.showLogin != nil || o.log.Level.Value <= slog.LevelInfo {
		return o.showLogin
	}
	return func(url string) { fmt.Fprintf(p.Stderr, "ginnel: to let this node into the network, open %s\n", url) }
}

// keep runs the node until its end.
func (r *runningNode) keep() {
	r.ended = r.Run(context.Background())
	close(r.endc)
}

// askToEnd is called when the API is told to shut the node down.
func (r *runningNode) askToEnd() { r.ask.Do(func() { close(r.askc) }) }

// errToldToEnd is returned if a user has ended the node before it was ready.
var errToldToEnd = errors.New("told to end")

// awaitReady waits until the mesh is usable, at most for timeout if that is positive. The error has
// an exit status that says why it is not. It is errToldToEnd if the node was told to end first.
func (r *runningNode) awaitReady(ctx context.Context, timeout time.Duration) error {
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	notice := time.NewTimer(noticeAfter)
	defer notice.Stop()
	began := time.Now()
	poll := time.NewTimer(joinPoll)
	defer poll.Stop()
	for {
		why := r.NotReady()
		if why == nil {
			return nil
		}
		select {
		case <-poll.C:
			poll.Reset(joinPause(time.Since(began)))
		case <-notice.C:
			r.log.Warn("the node is not ready yet", "why", why)
		case <-expired:
			return r.notReady(ctx, timeout, why)
		case <-ctx.Done():
			return errToldToEnd
		case <-r.askc:
			return errToldToEnd
		case <-r.endc:
			return r.failure()
		}
	}
}

// joinPause returns the time until a node that joins is asked again.
func joinPause(waited time.Duration) time.Duration {
	return min(max(waited/joinShare, joinPoll), joinPollMax)
}

// notReady returns the error after a timeout. It has the verdict about each target of --wait-for
// that has not answered, or about the node itself.
func (r *runningNode) notReady(ctx context.Context, timeout time.Duration, why error) error {
	status := cli.ExitTimeout
	if errors.Is(why, node.ErrControlUnreachable) {
		status = cli.ExitControl
	}
	err := fmt.Errorf("not ready after %v: %w", timeout, why)
	ctx, cancel := context.WithTimeout(ctx, whyPatience)
	defer cancel()
	targets := r.Awaited()
	if len(targets) == 0 {
		targets = []string{""}
	}
	for _, target := range targets {
		v := r.Why(ctx, target)
		err = withVerdict(err, &v)
		if v.Broken == node.StepControl || v.Broken == node.StepLogin || v.Broken == node.StepJoin {
			break // the same for all
		}
	}
	return cli.WithStatus(status, err)
}

// await waits for the end of the node. It returns nil if a user has ended it.
func (r *runningNode) await(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.askc:
		return nil
	case <-r.endc:
		return r.failure()
	}
}

// failure returns why the node has ended by itself.
func (r *runningNode) failure() error {
	if errors.Is(r.ended, node.ErrJoinRefused) || errors.Is(r.ended, node.ErrServerKeyChanged) {
		return cli.WithStatus(cli.ExitRefused, r.ended)
	}
	return r.ended
}

// close ends the node. An ephemeral node logs out first.
func (r *runningNode) close() {
	if r.leave {
		r.logout()
	}
	r.Close()
	r.wg.Wait()
	r.tuning.Close()
	r.state.Close()
}

func (r *runningNode) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	if err := r.Logout(ctx); err != nil {
		r.log.Warn("leaving the network; the server will forget this node by itself", "err", err)
	}
}

// randomPassword makes a password for a proxy that other users of this machine must not use.
func randomPassword() string { return rand.Text() }
