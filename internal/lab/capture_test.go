//go:build lab

package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture records every IP packet of a namespace in both directions, on all interfaces except
// loopback.
type capture struct {
	fd      int
	closing atomic.Bool
	stopped chan struct{}

	mu      sync.Mutex
	packets [][]byte
}

// captureWait is the read timeout of the capture socket: how often record checks whether to end.
const captureWait = 50 * time.Millisecond

// startCapture records packets until the end of the test.
func (n *netns) startCapture() *capture {
	n.t.Helper()
	c := &capture{stopped: make(chan struct{})}
	err := n.do(func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		wait := unix.NsecToTimeval(captureWait.Nanoseconds())
		return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	})
	if err != nil {
		n.t.Fatalf("capturing packets in %s: %v", n.name, err)
	}
	go c.record()
	n.t.Cleanup(func() {
		c.closing.Store(true)
		<-c.stopped
		unix.Close(c.fd)
	})
	return c
}

func (c *capture) record() {
	defer close(c.stopped)
	buf := make([]byte, 1<<16)
	for !c.closing.Load() {
		size, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil {
			continue
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Hatype == unix.ARPHRD_LOOPBACK {
			continue
		}
		c.mu.Lock()
		c.packets = append(c.packets, bytes.Clone(buf[:size]))
		c.mu.Unlock()
	}
}

// questions looks at the packets recorded since its last call. It returns a line for each that uses
// a port of DNS or contains text in the clear, and the number of packets.
func (c *capture) questions(text string) (found []string, of int) {
	time.Sleep(2 * captureWait) // the last packets may not be recorded yet
	c.mu.Lock()
	packets := c.packets
	c.packets = nil
	c.mu.Unlock()
	for _, p := range packets {
		proto, from, to := packetPorts(p)
		for _, port := range []uint16{53, 853, 5353, 5355} { // DNS, DNS over TLS, mDNS, LLMNR
			if from == port || to == port {
				found = append(found, fmt.Sprintf("protocol %d from port %d to port %d: %q", proto, from, to, p))
			}
		}
		if bytes.Contains(bytes.ToLower(p), []byte(text)) {
			found = append(found, fmt.Sprintf("%q in a packet of protocol %d from port %d to port %d", text, proto, from, to))
		}
	}
	return found, len(packets)
}

// packetPorts returns the protocol of an IP packet, and its ports if it is TCP or UDP.
func packetPorts(p []byte) (proto byte, from, to uint16) {
	var head int
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		proto, head = p[9], int(p[0]&15)*4
	case len(p) >= 40 && p[0]>>4 == 6:
		proto, head = p[6], 40
	}
	if proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP || len(p) < head+4 {
		return proto, 0, 0
	}
	return proto, binary.BigEndian.Uint16(p[head:]), binary.BigEndian.Uint16(p[head+2:])
}

func TestPacketPorts(t *testing.T) {
	p := append([]byte{0x45, 8: 64, 9: unix.IPPROTO_UDP, 19: 1}, 0x12, 0x34, 0, 53)
	if proto, from, to := packetPorts(p); proto != unix.IPPROTO_UDP || from != 0x1234 || to != 53 {
		t.Errorf("got protocol %d, ports %d and %d, want UDP from 4660 to 53", proto, from, to)
	}
}
