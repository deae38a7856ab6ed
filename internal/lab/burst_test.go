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

// burstLimit is how long one connection of a burst may take, from its dial to the answer.
const burstLimit = 60 * time.Second

// All connections of a burst through one node to one port of another are served, even without
// privileges, when the kernel limits the nodes' socket buffers.
func TestConnectionBurst(t *testing.T) {
	m := newMesh(t, open, open)
	target := net.JoinHostPort(m.beta.order.Name, echoPort)
	if r := m.alpha.host.startBurst(defaultProxy, target, 1); r.Served != 1 { // also lets the nodes find a path
		t.Fatalf("the first connection: %+v", r)
	}
	m.alpha.awaitPath("direct", dialTimeout)
	for _, size := range []int{1000, 4000} {
		r := m.alpha.host.startBurst(defaultProxy, target, size)
		t.Logf("%d of %d simultaneous connections were served, the last after %v", r.Served, size, r.Took)
		if r.Served != size {
			t.Errorf("%d of %d connections were not served: %v", size-r.Served, size, r.Failures)
		}
	}
}

// burstReport is what the role "burst" prints.
type burstReport struct {
	Served   int
	Took     time.Duration
	Failures map[string]int // number of connections by error text
}

// startBurst starts the role, which dials size connections at once through a proxy, and makes a
// round trip on each. All of them stay open until the last has had its answer.
func (n *netns) startBurst(proxyAddr, target string, size int) (r burstReport) {
	n.t.Helper()
	p := n.role("burst", asRoot, proxyAddr, target, strconv.Itoa(size))
	line := p.await(&p.out, "Served", 2*burstLimit)
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		n.t.Fatal(err)
	}
	p.kill()
	return r
}

// burst is the state of the role.
type burst struct {
	proxy, target string

	mu     sync.Mutex
	report burstReport
	conns  []net.Conn
}

func serveBurst(args []string) error {
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(size) + 100, Max: uint64(size) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("allowing %d descriptors: %w", limit.Cur, err)
	}
	r := &burst{proxy: args[0], target: args[1], report: burstReport{Failures: make(map[string]int)}}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range size {
		wg.Go(func() { r.note(r.exchange(uint64(i))) })
	}
	wg.Wait()
	r.report.Took = time.Since(start)
	if err := json.NewEncoder(os.Stdout).Encode(r.report); err != nil {
		return err
	}
	select {} // hold the connections until killed
}

func (r *burst) note(c net.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.report.Failures[err.Error()]++
		return
	}
	r.report.Served++
	r.conns = append(r.conns, c)
}

// exchange opens one connection and sends a number of its own, which must come back.
func (r *burst) exchange(number uint64) (net.Conn, error) {
	deadline := time.Now().Add(burstLimit)
	d, err := proxy.SOCKS5("tcp", r.proxy, nil, &net.Dialer{Deadline: deadline})
	if err != nil {
		return nil, err
	}
	c, err := d.Dial("tcp", r.target)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(deadline)
	sent, echoed := make([]byte, 64), make([]byte, 64)
	binary.BigEndian.PutUint64(sent, number)
	if _, err := c.Write(sent); err != nil {
		return nil, fmt.Errorf("sending a message: %w", err)
	}
	if _, err := io.ReadFull(c, echoed); err != nil {
		return nil, fmt.Errorf("receiving the echo: %w", err)
	}
	if !bytes.Equal(echoed, sent) {
		return nil, fmt.Errorf("the echo of another connection came back")
	}
	return c, nil
}
