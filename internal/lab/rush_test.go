//go:build lab

package lab

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

// rushLimit is how long a connection of a rush may take to its first answer.
const rushLimit = 60 * time.Second

// Connections that are dialed at once through one node to one port that another serves are all
// served: without rights, so that the kernel gives the nodes' sockets small buffers.
func TestRushIsServed(t *testing.T) {
	m := newMesh(t, open, open)
	target := net.JoinHostPort(m.beta.order.Name, echoPort)
	if r := m.alpha.host.startRush(defaultProxy, target, 1); r.Served != 1 { // the nodes find each other meanwhile
		t.Fatalf("the first connection: %+v", r)
	}
	m.alpha.awaitPath("direct", dialTimeout)
	for _, size := range []int{1000, 4000} {
		r := m.alpha.host.startRush(defaultProxy, target, size)
		t.Logf("of %d connections at once %d were served, the last after %v", size, r.Served, r.Took)
		if r.Served != size {
			t.Errorf("%d of %d connections were not served: %v", size-r.Served, size, r.Failures)
		}
	}
}

// rushReport is what the role "rush" says.
type rushReport struct {
	Served   int
	Took     time.Duration
	Failures map[string]int // by what was wrong
}

// startRush starts the role, which dials many connections at once through a proxy and makes a round
// trip on each. They are open until all have had theirs.
func (n *netns) startRush(proxyAddr, target string, size int) (r rushReport) {
	n.t.Helper()
	p := n.role("rush", asRoot, proxyAddr, target, strconv.Itoa(size))
	line := p.await(&p.out, "Served", 2*rushLimit)
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		n.t.Fatal(err)
	}
	p.kill()
	return r
}

// rush is the role.
type rush struct {
	proxy, target string

	mu     sync.Mutex
	report rushReport
	conns  []net.Conn
}

func serveRush(args []string) error {
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(size) + 100, Max: uint64(size) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("allowing %d descriptors: %w", limit.Cur, err)
	}
	r := &rush{proxy: args[0], target: args[1], report: rushReport{Failures: make(map[string]int)}}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range size {
		wg.Go(func() { r.note(r.visit(uint64(i))) })
	}
	wg.Wait()
	r.report.Took = time.Since(start)
	if err := json.NewEncoder(os.Stdout).Encode(r.report); err != nil {
		return err
	}
	select {} // until killed, with the connections
}

func (r *rush) note(c net.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.report.Failures[err.Error()]++
		return
	}
	r.report.Served++
	r.conns = append(r.conns, c)
}

// visit is one connection, which says a number of its own.
func (r *rush) visit(number uint64) (net.Conn, error) {
	deadline := time.Now().Add(rushLimit)
	d, err := proxy.SOCKS5("tcp", r.proxy, nil, &net.Dialer{Deadline: deadline})
	if err != nil {
		return nil, err
	}
	c, err := d.Dial("tcp", r.target)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(deadline)
	said, heard := make([]byte, 64), make([]byte, 64)
	binary.BigEndian.PutUint64(said, number)
	if _, err := c.Write(said); err != nil {
		return nil, fmt.Errorf("saying something: %w", err)
	}
	if _, err := io.ReadFull(c, heard); err != nil {
		return nil, fmt.Errorf("hearing something: %w", err)
	}
	if !bytes.Equal(heard, said) {
		return nil, fmt.Errorf("another connection was heard")
	}
	return c, nil
}
