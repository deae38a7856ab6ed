//go:build lab

package lab

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// This binary, started again with a role, is a process that serves something in a namespace. A role
// opens what it serves, writes readyLine and serves until it is killed.

// roleVariable names the role in the environment.
const roleVariable = "GINNEL_LAB_ROLE"

const readyLine = "ready"

// roles are the processes that this binary can be.
var roles = map[string]func(args []string) error{
	"services": serveServices,
	"dns":      serveDNS,
	"node":     serveNode,
	"wire":     serveWire,
	"crowd":    serveCrowd,
	"rush":     serveRush,

	"handshakes": serveHandshakes,
	"garbage":    serveGarbage,
	"forge":      serveForge,
	"strangers":  serveStrangers,
}

// play runs a role and returns the exit status.
func play(role string, args []string) int {
	signal.Ignore(syscall.SIGPIPE)
	f := roles[role]
	if f == nil {
		fmt.Fprintln(os.Stderr, "no such role:", role)
		return 2
	}
	if err := f(args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		return 1
	}
	return 0
}

// role starts this binary in a role.
func (n *netns) role(role string, r rights, args ...string) *process {
	n.t.Helper()
	return n.start(role+" in "+n.name, command{
		rights: r,
		args:   append([]string{programs.self}, args...),
		env:    []string{roleVariable + "=" + role},
	})
}
