// Command ginnel is a way into a private mesh that needs no rights: a node with a local SOCKS5 and HTTP proxy, and the
// relay, in one program.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(withSignals())
}

// withSignals runs the program until it is done or told to end. A second signal ends it on the spot.
func withSignals() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	return run(ctx, os.Args[1:], program{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, environ: os.Environ})
}
