package interop

import (
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/envknob"
)

// atOnce is how many tests run at the same time. Most of them wait most of the time, for clocks of
// the other side that cannot be turned.
const atOnce = 6

// TestMain keeps their code from looking beyond this machine, and fails the run if a goroutine of
// ours is left.
func TestMain(m *testing.M) {
	envknob.Setenv("IN_TS_TEST", "1")
	envknob.Setenv("TS_DISABLE_PORTMAPPER", "1")
	log.SetOutput(quiet{})
	flag.Parse()
	flag.Set("test.parallel", strconv.Itoa(atOnce))
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// quiet drops what their servers print through the log package: each client that leaves, for
// example.
type quiet struct{}

func (quiet) Write(p []byte) (int, error) { return len(p), nil }

// goroutinesLeft returns the stacks of goroutines that run the product's code, after some patience.
func goroutinesLeft() string {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var left string
	for range 250 {
		if left = productGoroutines(); left == "" {
			break
		}
		<-tick.C
	}
	return left
}

func productGoroutines() string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n")[1:] {
		for _, pkg := range []string{"ginnel/relay.", "ginnel/transport.", "ginnel/node.", "ginnel/userstack.", "ginnel/proxy."} {
			if strings.Contains(g, pkg) {
				left = append(left, g)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}
