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

// The role "crowd" opens many connections to one place, says at most the beginning of something on
// each, and holds all of them.

// beginnings are what a client may say before it falls silent: nothing, and pieces of each protocol
// of the proxy.
var beginnings = []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03\x20", "\x04\x01\x00", "GET http://10.88", "CONNECT 10.88.0.2:80 HTTP/1.1\r\nHost: "}

// startCrowd starts the role and returns when all connections have been made.
func (n *netns) startCrowd(addr string, size int) *process {
	n.t.Helper()
	p := n.role("crowd", asRoot, addr, strconv.Itoa(size))
	p.await(&p.out, readyLine, 60*time.Second)
	return p
}

func serveCrowd(args []string) error {
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
		c.Write([]byte(beginnings[i%len(beginnings)]))
		conns = append(conns, c)
	}
	fmt.Fprintf(os.Stdout, "%d connections, %d failed\n%s\n", len(conns), failed, readyLine)
	select {} // until killed, with the connections
}
