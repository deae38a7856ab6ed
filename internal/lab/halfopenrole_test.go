//go:build lab

package lab

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The role "halfopen" opens many connections to one address, sends at most the start of a request
// on each, and holds all of them.

// partialRequests are what a half-open client sends: nothing, or the start of a request in one of
// the proxy's protocols.
var partialRequests = []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03\x20", "\x04\x01\x00",
	"GET http://10.88", "CONNECT 10.88.0.2:80 HTTP/1.1\r\nHost: "}

// startHalfOpen starts the role and returns when it has made all its connections.
func (n *netns) startHalfOpen(addr string, size int) *process {
	n.t.Helper()
	p := n.role("halfopen", asRoot, addr, strconv.Itoa(size))
	p.await(&p.out, readyLine, 60*time.Second)
	return p
}

func serveHalfOpen(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(size) + 100, Max: uint64(size) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("allowing %d descriptors: %w", limit.Cur, err)
	}
	conns := make([]net.Conn, 0, size)
	failed := 0
	for i := range size {
		c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
		if err != nil {
			failed++
			continue
		}
		c.Write([]byte(partialRequests[i%len(partialRequests)]))
		conns = append(conns, c)
	}
	fmt.Fprintf(os.Stdout, "%d connections, %d failed\n%s\n", len(conns), failed, readyLine)
	select {} // hold the connections until killed
}
