package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"ginnel/configs"
	"ginnel/node"
)

const (
	leavePatience = 3 * time.Second // for the server to forget an ephemeral node
	joinPoll      = 20 * time.Millisecond
)

// runningNode is a node that a command runs, with its place in the file system.
type runningNode struct {
	*node.Node
	state *stateDir
	log   *slog.Logger
	leave bool // the server is to forget the node at the end
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
	r := &runningNode{log: log, leave: f.ephemeral}
	if r.state, err = f.openState(p, log); err != nil {
		return nil, err
	}
	if f.control != "" {
		if err := f.useControl(&cfg, r.state); err != nil {
			r.state.close()
			return nil, err
		}
	}
	if r.Node, err = node.New(cfg); err != nil {
		r.state.close()
		return nil, err
	}
	if err := r.state.publish(running{PID: os.Getpid(), Proxies: r.Status().Proxies, Token: cfg.Token}); err != nil {
		if f.state != "" || f.control != "" {
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
func (f *nodeFlags) useControl(cfg *node.Config, state *stateDir) error {
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
	cfg.MTU = meshMTU
	cfg.Control = &node.Control{
		URL:          strings.TrimRight(f.control, "/"),
		AuthKey:      string(f.authKey.value),
		Identity:     id,
		Save:         state.saveIdentity,
		Hostname:     hostname,
		Tags:         f.tags,
		Ephemeral:    f.ephemeral,
		Version:      buildVersion(),
		AcceptRoutes: f.acceptRoutes,
		ExitNode:     f.exitNode,
	}
	return nil
}

// run waits for the end.
func (r *runningNode) run(ctx context.Context) error {
	err := r.runUntil(ctx)
	if errors.Is(err, node.ErrJoinRefused) {
		return &statusError{exitRefused, err}
	}
	return err
}

// runUntil has an ephemeral node leave before it closes.
func (r *runningNode) runUntil(ctx context.Context) error {
	if !r.leave {
		return r.Run(ctx)
	}
	ended, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		r.logout()
		cancel()
	})
	defer stop()
	return r.Run(ended)
}

func (r *runningNode) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	if err := r.Logout(ctx); err != nil {
		r.log.Warn("leaving the network; the server will forget this node by itself", "err", err)
	}
}

func (r *runningNode) close() {
	r.Close()
	r.wg.Wait()
	r.state.close()
}

// announce logs when the node has joined.
func (r *runningNode) announce(ctx context.Context) {
	for r.Status().State != node.StateRunning {
		if sleep(ctx, joinPoll) != nil || r.Status().State == node.StateStopped {
			return
		}
	}
	s := r.Status()
	r.log.Info("joined", "name", s.Self.Name, "addresses", s.Self.Addresses, "peers", len(s.Peers), "relay", s.Self.Relay)
}

// randomPassword is for a proxy that others on this machine must not use.
func randomPassword() string { return rand.Text() }
