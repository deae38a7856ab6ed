package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	relayserver "ginnel/relay/server"
)

const (
	// requestLimit bounds TLS handshake and HTTP request, each. Connections that are upgraded have
	// limits of their own.
	requestLimit = 15 * time.Second
	// lastRequests is how long requests that are being answered may take when the server ends.
	lastRequests = time.Second
	// drainTime is how long a relay that is told to end waits for its clients to be told.
	drainTime = 5 * time.Second
	// maxHeader bounds the header of a request, in bytes.
	maxHeader = 16 << 10
	// maxServers is room for the errors of all listeners of a server.
	maxServers = 8
)

// Runner runs the listeners of a server until Close. The first listener that ends by itself ends
// the server. A Runner belongs to one goroutine.
type Runner struct {
	log     *slog.Logger
	hupc    chan os.Signal
	stopc   chan struct{}
	failedc chan error // has room for all listeners

	wg      sync.WaitGroup
	files   sync.WaitGroup // counts watchFiles, which a file may hold up
	filesc  chan struct{}  // closed when watchFiles has ended; nil if it has not begun
	opened  []func()       // what Close calls
	servers []*http.Server
}

// New returns a Runner without listeners. From now on SIGHUP does not end the process but has it
// read its files again, even if it has none: what ends other commands when their terminal is closed
// must not end a server that is sent it by habit.
func New(log *slog.Logger) *Runner {
	r := &Runner{log: log, hupc: make(chan os.Signal, 1), stopc: make(chan struct{}),
		failedc: make(chan error, maxServers)}
	signal.Ignore(syscall.SIGHUP) // it was a signal to end, and must not be one in between
	signal.Notify(r.hupc, syscall.SIGHUP)
	return r
}

// CloseLater has Close call f, the last one first.
func (r *Runner) CloseLater(f func()) { r.opened = append(r.opened, f) }

// Go runs f, which ends when what it works on is closed.
func (r *Runner) Go(f func()) { r.wg.Go(f) }

// Serve runs f until the server is closed. If f ends before that, the server ends.
func (r *Runner) Serve(f func() error) {
	r.wg.Go(func() { r.serveUntilClosed(f) })
}

func (r *Runner) serveUntilClosed(f func() error) {
	if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		r.failedc <- err
	}
}

// HTTPServer returns an HTTP server with limits, which Drain and Close end.
func (r *Runner) HTTPServer(h http.Handler) *http.Server {
	hs := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: requestLimit,
		ReadTimeout:       2 * requestLimit,
		WriteTimeout:      2 * requestLimit,
		IdleTimeout:       2 * requestLimit,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	r.servers = append(r.servers, hs)
	return hs
}

// ServeHTTPOn serves h, and nothing else, on a listener.
func (r *Runner) ServeHTTPOn(ln net.Listener, h http.Handler) {
	hs := r.HTTPServer(h)
	r.Serve(func() error { return hs.Serve(ln) })
}

// ListenHTTP serves h at addr unless that is empty or none. The port has a name, for errors and for
// the log.
func (r *Runner) ListenHTTP(name, addr string, h http.Handler) error {
	if addr == "" || addr == "none" {
		return nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("opening the %s port: %w", name, err)
	}
	r.ServeHTTPOn(ln, h)
	r.log.Info("listening", "for", name, "addr", ln.Addr())
	return nil
}

// Wait returns nil when ctx ends, and the error of a listener that ends before.
func (r *Runner) Wait(ctx context.Context) error {
	select {
	case err := <-r.failedc:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Drain lets requests end and tells the relay's clients to come back.
func (r *Runner) Drain(relay *relayserver.Server) error {
	r.log.Info("draining")
	requests, cancel := context.WithTimeout(context.Background(), lastRequests)
	defer cancel()
	for _, hs := range r.servers {
		hs.Shutdown(requests)
	}
	clients, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return relay.Shutdown(clients)
}

// Close ends all listeners and waits for their goroutines.
func (r *Runner) Close() {
	signal.Stop(r.hupc)
	close(r.stopc)
	for _, hs := range r.servers {
		hs.Close()
	}
	for i := len(r.opened) - 1; i >= 0; i-- {
		r.opened[i]()
	}
	r.wg.Wait()
	r.endFiles()
}
