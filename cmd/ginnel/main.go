// Command ginnel is a way into a private mesh that needs no rights: a node with a local SOCKS5 and
// HTTP proxy, and the relay, in one program.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	os.Exit(withSignals())
}

// withSignals runs the program until it is done or told to end, which a terminal does that is
// closed (SIGHUP). A second signal ends it on the spot. Output that nobody reads any more is an
// error, not the end (SIGPIPE).
func withSignals() int {
	signal.Ignore(syscall.SIGPIPE)
	ends := slices.DeleteFunc([]os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}, signal.Ignored) // by nohup, or in the background
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	r := startReaper()
	defer r.close()
	return run(ctx, os.Args[1:], program{args: os.Args, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, environ: os.Environ, reaper: r})
}
