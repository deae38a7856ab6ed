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

// atOnce is how many tests run at the same time. Most of them wait most of the time, on timers in
// the other side's code that a test cannot shorten.
const atOnce = 6

// TestMain keeps their code from using the network outside this machine, and fails the run if a
// goroutine of the product is left.
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

// quiet drops the output of their servers to package log, for example a line for each client that
// disconnects.
type quiet struct{}

func (quiet) Write(p []byte) (int, error) { return len(p), nil }

// goroutinesLeft returns the stacks of goroutines in the product's code, after waiting up to five
// seconds for them to end.
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
		for _, pkg := range []string{"ginnel/relay.", "ginnel/relay/server.", "ginnel/transport.", "ginnel/node.",
			"ginnel/userstack.", "ginnel/proxy."} {
			if strings.Contains(g, pkg) {
				left = append(left, g)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}
