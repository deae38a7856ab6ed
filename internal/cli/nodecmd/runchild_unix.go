//go:build unix

package nodecmd

import (
	"os"
	"os/signal"
	"syscall"

	"ginnel/internal/sys"
)

// endSignal asks a process to end.
const endSignal = syscall.SIGTERM

// passedSignals are passed to the command. Job control signals are not among them: the terminal
// sends them to the command too.
func passedSignals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGALRM}
}

// sentByTerminal reports whether the command has the signal already. A terminal sends it to all
// processes in the foreground, and many programs take a second one for a stronger request.
func sentByTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT && s != syscall.SIGWINCH {
		return false
	}
	return sys.InForeground()
}

// restorePipeSignal makes SIGPIPE kill the command, although this process ignores it. An ignored
// signal is inherited by children; a caught one is reset to its default.
func restorePipeSignal() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
