package service

import (
	"os"
	"os/signal"
	"syscall"
)

// HangUps catches SIGHUP, which tells a server to read its files again, whether it has any or not:
// what ends other commands when their terminal is closed must not end a server that is sent it by
// habit.
func HangUps() (<-chan os.Signal, func()) {
	hup := make(chan os.Signal, 1)
	signal.Ignore(syscall.SIGHUP) // it was a signal to end, and must not be one in between
	signal.Notify(hup, syscall.SIGHUP)
	return hup, func() { signal.Stop(hup) }
}
