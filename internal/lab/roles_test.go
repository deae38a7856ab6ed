//go:build lab

package lab

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// This binary, started again with a role, serves something in a namespace. A role opens its
// sockets, writes readyLine and serves until it is killed.

// roleVariable is the environment variable with the name of the role.
const roleVariable = "GINNEL_LAB_ROLE"

const readyLine = "ready"

// roles are the functions of the roles by name. The arguments are those of the command line.
var roles = map[string]func(args []string) error{
	"services": serveServices,
	"dns":      serveDNS,
	"node":     serveNode,
	"wire":     serveWire,
	"halfopen": serveHalfOpen,
	"burst":    serveBurst,

	"handshakes":   serveHandshakes,
	"garbage":      serveGarbage,
	"forge":        serveForge,
	"unregistered": serveUnregistered,
}

// runRole runs a role and returns the exit status.
func runRole(role string, args []string) int {
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

// role starts this binary in a role, in the namespace.
func (n *netns) role(role string, p privileges, args ...string) *process {
	n.t.Helper()
	return n.start(role+" in "+n.name, command{
		as:   p,
		args: append([]string{programs.self}, args...),
		env:  []string{roleVariable + "=" + role},
	})
}
