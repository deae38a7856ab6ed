package main

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
	"ginnel/node"
	"ginnel/tuning"
)

const (
	leavePatience = 3 * time.Second // for the server to forget an ephemeral node

	// A node that joins is asked whether it is ready after joinPoll at first, and then whenever it has
	// waited 1/joinShare longer, at least every joinPollMax: the server may be away, or a login
	// awaited, for days.
	joinPoll    = 20 * time.Millisecond
	joinShare   = 50
	joinPollMax = time.Second

	// noticeAfter is when somebody who waits for a node wants to know what it waits for.
	noticeAfter = 2 * time.Second
)

// runningNode is a node that a command runs, with its place in the file system and the tuning of
// the process. One goroutine runs the node (keep); close ends it.
type runningNode struct {
	*node.Node
	state  *stateDir
	tuning *tuning.Process
	log    *slog.Logger
	leave  bool // the server is to forget the node at the end

	ask   sync.Once
	askc  chan struct{} // closed when the node was told to end by its API
	endc  chan struct{} // closed when the node has ended
	ended error         // why it did so by itself; set before endc is closed
	wg    sync.WaitGroup
}

// start starts the node that the flags describe.
func (f *nodeFlags) start(p program, log *slog.Logger) (*runningNode, error) {
	cfg, err := f.nodeConfig(p, log)
	if err != nil {
		return nil, err
	}
	if f.wireguard != "" {
		if err := f.useWireGuard(&cfg, log); err != nil {
			return nil, err
		}
	}
	r := &runningNode{log: log, leave: f.ephemeral, askc: make(chan struct{}), endc: make(chan struct{})}
	cfg.Shutdown = r.askToEnd
	if r.state, err = f.openState(p, log); err != nil {
		return nil, err
	}
	r.state.clean = f.ephemeral
	if f.control != "" {
		if err := f.useControl(&cfg, r.state, p); err != nil {
			r.state.close()
			return nil, err
		}
	}
	if r.tuning, err = tuning.Start(tuning.Config{Mode: f.tuning.value, Memory: f.memory.value, Log: log}); err != nil {
		r.state.close()
		return nil, err
	}
	cfg.Tuning = r.tuning
	if r.Node, err = node.New(cfg); err != nil {
		r.tuning.Close()
		r.state.close()
		if errors.Is(err, node.ErrServerUnprotected) {
			return nil, usagef("--control %s: %w, with --server-key mkey:…", f.control, node.ErrServerUnprotected)
		}
		return nil, f.portHint(err)
	}
	r.wg.Go(r.keep)
	if err := r.state.publish(running{PID: os.Getpid(), Proxies: r.Status().Proxies, Token: cfg.Token}); err != nil {
		if f.state != "" || f.control != "" && !f.ephemeral {
			r.close()
			return nil, err
		}
		warnNoState(log, err)
	}
	return r, nil
}

// useWireGuard makes the network that of the file.
func (f *nodeFlags) useWireGuard(cfg *node.Config, log *slog.Logger) error {
	wg, err := configs.LoadWireGuard(f.wireguard)
	if _, noFile := errors.AsType[*fs.PathError](err); noFile {
		return noFileError("--wireguard", f.wireguard, "--wireguard /etc/wireguard/wg0.conf", err)
	}
	if err != nil {
		return usageError{err}
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

// meshMTU is what all members of a server's network count on.
const meshMTU = 1280

// useControl makes the network that of the server.
func (f *nodeFlags) useControl(cfg *node.Config, state *stateDir, p program) error {
	if f.ephemeral {
		state = &stateDir{} // the identity ends with the node
	}
	id, err := state.loadIdentity()
	if err != nil {
		return err
	}
	hostname := f.hostname
	if hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			hostname = "node"
		}
	}
	routes, err := f.routes()
	if err != nil {
		return err
	}
	cfg.MTU = meshMTU
	cfg.Control = &node.Control{
		URL:          strings.TrimRight(f.control, "/"),
		ServerKey:    f.serverKey.value,
		AuthKey:      string(f.authKey.value),
		Identity:     id,
		Save:         state.saveIdentity,
		SaveMap:      state.saveMap,
		LastMap:      state.loadMap,
		Hostname:     hostname,
		Tags:         f.tags,
		Ephemeral:    f.ephemeral,
		Login:        f.login(p),
		AcceptRoutes: f.acceptRoutes,
		ExitNode:     f.exitNode,

		AdvertiseRoutes: routes,
	}
	return nil
}

// login shows where the node can be approved, if the log does not.
func (f *nodeFlags) login(p program) func(url string) {
	if f.showLogin != nil || f.log.level.value <= slog.LevelInfo {
		return f.showLogin
	}
	return func(url string) { fmt.Fprintf(p.stderr, "ginnel: to let this node into the network, open %s\n", url) }
}

// keep waits for the node's end.
func (r *runningNode) keep() {
	r.ended = r.Run(context.Background())
	close(r.endc)
}

// askToEnd is what the API calls.
func (r *runningNode) askToEnd() { r.ask.Do(func() { close(r.askc) }) }

// errToldToEnd is the end that somebody asked for.
var errToldToEnd = errors.New("told to end")

// awaitReady waits until the mesh is usable, at most for a positive timeout. The error has the exit
// status that says why it is not; it is errToldToEnd if that came first.
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

// joinPause is the time until the next question to a node that joins.
func joinPause(waited time.Duration) time.Duration {
	return min(max(waited/joinShare, joinPoll), joinPollMax)
}

// notReady is the error for scripts, with the verdict about each target that has not answered, or
// about the node itself.
func (r *runningNode) notReady(ctx context.Context, timeout time.Duration, why error) error {
	status := exitTimeout
	if errors.Is(why, node.ErrControlUnreachable) {
		status = exitControl
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
	return &statusError{status, err}
}

// await waits for the end of the node. It is no error if somebody asked for it.
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

// failure is why the node has ended by itself.
func (r *runningNode) failure() error {
	if errors.Is(r.ended, node.ErrJoinRefused) || errors.Is(r.ended, node.ErrServerKeyChanged) {
		return &statusError{exitRefused, r.ended}
	}
	return r.ended
}

// close ends the node, which an ephemeral one tells the server first.
func (r *runningNode) close() {
	if r.leave {
		r.logout()
	}
	r.Close()
	r.wg.Wait()
	r.tuning.Close()
	r.state.close()
}

func (r *runningNode) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	if err := r.Logout(ctx); err != nil {
		r.log.Warn("leaving the network; the server will forget this node by itself", "err", err)
	}
}

// randomPassword is for a proxy that others on this machine must not use.
func randomPassword() string { return rand.Text() }
