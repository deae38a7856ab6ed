//go:build lab

package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"ginnel/internal/netem"
)

// The role "wire" is an emulated path between two namespaces (package netem).

// wireLink connects two namespaces by an emulated path, with the properties of each direction.
func wireLink(a *netns, devA string, b *netns, devB string, forward, back netem.Config) {
	a.t.Helper()
	middle := newNetns(a.t, "wire")
	p := middle.role("wire", asRoot, devA, devB+"1", forward.String(), back.String())
	p.await(&p.out, readyLine, dialTimeout)
	// The queue of a device holds the frames that the role has not read yet. The default of 1000
	// frames is less than a large TCP window.
	middle.ip("link", "set", devA, "txqueuelen", "10000", "netns", a.name)
	middle.ip("link", "set", devB+"1", "txqueuelen", "10000", "netns", b.name)
	b.ip("link", "set", devB+"1", "name", devB)
	a.ip("link", "set", devA, "up")
	b.ip("link", "set", devB, "up")
}

func serveWire(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("want two devices and two directions, got %q", args)
	}
	var taps [2]*netem.TAP
	var directions [2]*netem.Direction
	for i := range taps {
		var err error
		if taps[i], err = netem.OpenTAP(args[i]); err != nil {
			return err
		}
		cfg, err := netem.Parse(args[2+i])
		if err != nil {
			return err
		}
		directions[i] = netem.NewDirection(cfg, rand.Uint64())
	}
	fmt.Fprintln(os.Stdout, readyLine)
	return netem.NewWire(taps[0], taps[1], directions[0], directions[1]).Run(context.Background())
}

// wireEnds returns two namespaces joined by an emulated path.
func wireEnds(t *testing.T, forward, back netem.Config) (a, b *netns) {
	a, b = newNetns(t, "a"), newNetns(t, "b")
	wireLink(a, "eth0", b, "eth0", forward, back)
	a.addr("eth0", "10.1.0.1/24")
	b.addr("eth0", "10.1.0.2/24")
	return a, b
}

// ping sends count echo requests with size bytes of payload to wireEnds' b, and returns the number
// of answers and the mean round trip time.
func (n *netns) ping(count, size int, interval time.Duration) (answered int, mean time.Duration) {
	n.t.Helper()
	out, _ := exec.Command("ip", "netns", "exec", n.name, "ping", "-q", "-M", "do", "-c", strconv.Itoa(count), "-W", "1",
		"-s", strconv.Itoa(size), "-i", fmt.Sprint(interval.Seconds()), "10.1.0.2").CombinedOutput()
	m := regexp.MustCompile(`(\d+) received(?s:.*= [\d.]+/([\d.]+)/)?`).FindSubmatch(out)
	if m == nil {
		n.t.Fatalf("ping wrote %s", out)
	}
	answered, _ = strconv.Atoi(string(m[1]))
	ms, _ := strconv.ParseFloat(string(m[2]), 64)
	return answered, time.Duration(ms * float64(time.Millisecond))
}

// Each direction of a wire has its own delay and loss, and drops packets longer than its maximum.
func TestWireDelayAndLoss(t *testing.T) {
	t.Parallel()
	a, _ := wireEnds(t, netem.Config{Delay: 20 * time.Millisecond, MaxPacket: 1000},
		netem.Config{Delay: 10 * time.Millisecond, Loss: 0.2})
	a.ping(1, 56, time.Second) // resolves the neighbour's link-layer address
	got, rtt := a.ping(500, 56, 10*time.Millisecond)
	if got < 350 || got > 450 {
		t.Errorf("%d of 500 answered, want 400", got)
	}
	if rtt < 30*time.Millisecond || rtt > 34*time.Millisecond {
		t.Errorf("round trip of %v, want 30ms", rtt)
	}
	if got, _ := a.ping(20, 1000, 10*time.Millisecond); got != 0 {
		t.Errorf("%d packets of 1028 bytes passed", got)
	}
}

// A bottleneck passes its full rate, up to 500 Mbit/s. Packets cross it one by one: what a sender
// hands to the kernel as one GSO packet does not pass as one.
func TestWireRate(t *testing.T) {
	for _, rate := range []int64{20e6, 100e6, 500e6} {
		t.Run(fmt.Sprint(rate/1e6), func(t *testing.T) {
			way := netem.Config{Delay: 5 * time.Millisecond, Rate: rate, Queue: int(rate / 8 / 100), MaxPacket: 1500}
			a, b := wireEnds(t, way, way)
			got := float64(bulkRate(t, a, b)) / float64(rate)
			if got < 0.85 || got > 0.98 { // the queue adds some error to a measurement of seconds
				t.Errorf("a TCP connection gets %.3f of %d Mbit/s, want about 0.965, which headers leave", got, rate/1e6)
			}
			t.Logf("a TCP connection gets %.3f of %d Mbit/s", got, rate/1e6)
		})
	}
}

// bulkRate returns the rate of one TCP connection of the kernel from a to b in bit/s, measured
// after its first second.
func bulkRate(t *testing.T, a, b *netns) int64 {
	var l net.Listener
	if err := b.do(func() (err error) { l, err = net.Listen("tcp", "10.1.0.2:5001"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sender, err := a.dial("tcp", "10.1.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	receiver, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	go func() {
		piece := make([]byte, 256<<10)
		for {
			if _, err := sender.Write(piece); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 256<<10)
	read := func(d time.Duration) (n int64) {
		receiver.SetReadDeadline(time.Now().Add(d))
		for {
			m, err := receiver.Read(buf)
			if n += int64(m); err != nil {
				return n
			}
		}
	}
	read(time.Second)
	const window = 2 * time.Second
	return read(window) * 8 * int64(time.Second) / int64(window)
}
