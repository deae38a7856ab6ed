//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"

	"ginnel/internal/sys"
)

// endSignal asks a process to end.
const endSignal = syscall.SIGTERM

// passedSignals are those that a command may want to hear of. What stops processes and lets them go
// on is between them and their terminal.
func passedSignals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGALRM}
}

// sentByTerminal reports whether the command has the signal already: a terminal sends it to all
// processes in its foreground, and a second one often means something else to a program than the
// first.
func sentByTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT && s != syscall.SIGWINCH {
		return false
	}
	return sys.InForeground()
}

// restorePipeSignal lets commands die by SIGPIPE again, which this process ignores and they would
// inherit. A signal that is taken note of is at its default in them.
func restorePipeSignal() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
