// Package relaytest has what the tests of the relay packages share: a network in memory, a
// certificate authority, the vectors of the reference implementation, and a check for goroutines
// that are left. It knows nothing of frames; see package rawpeer.
package relaytest

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Run runs the tests of a package. It fails if goroutines of the relay, or of its connections, are
// left afterwards.
func Run(m *testing.M) (code int) {
	if code := m.Run(); code != 0 {
		return code
	}
	if left := goroutinesLeft(); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
		return 1
	}
	return 0
}

// isRelated reports whether a stack is of this project's code or of a connection that it uses.
func isRelated(stack string) bool {
	for _, part := range []string{"ginnel/relay", "net/http", "websocket"} {
		if strings.Contains(stack, part) {
			return true
		}
	}
	return false
}

// goroutinesLeft returns the stacks of goroutines that tests should have ended. It waits up to a
// second, because the reader of a closed connection needs a moment to end.
func goroutinesLeft() string {
	var left string
	for range 200 {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = ""
		for _, g := range strings.Split(string(buf), "\n\n")[1:] {
			if isRelated(g) {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
		runtime.Gosched()
		time.Sleep(5 * time.Millisecond)
	}
	return left
}

// Log returns a logger whose output is shown for a failing test, or with -v.
func Log(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// RoundTripper is an HTTP transport that answers requests itself.
type RoundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// IsTimeout reports whether err comes from a deadline.
func IsTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// PacketSize is the size of a full WireGuard message.
const PacketSize = 1420 + 32

// Batch returns n full packets.
func Batch(n int) [][]byte {
	batch := make([][]byte, n)
	for i := range batch {
		batch[i] = make([]byte, PacketSize)
		batch[i][0] = 4 // not disco
	}
	return batch
}
