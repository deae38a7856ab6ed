//go:build lab

package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The role "wire" is a wire that is slow and loses packets, for which not every kernel has a queueing discipline: two
// TAP devices, each frame from one going out of the other later, or not at all.

const (
	wireFrame = 1 << 16
	wireQueue = 4096 // frames on their way in one direction; more are lost
)

// wireLink connects two namespaces with such a wire.
func wireLink(a *netns, devA string, b *netns, devB string, delay time.Duration, percentLost float64) {
	a.t.Helper()
	middle := newNetns(a.t, "wire")
	p := middle.role("wire", asRoot, delay.String(), fmt.Sprint(percentLost), devA, devB+"1")
	p.await(&p.out, readyLine, dialTimeout)
	middle.ip("link", "set", devA, "netns", a.name)
	middle.ip("link", "set", devB+"1", "netns", b.name)
	b.ip("link", "set", devB+"1", "name", devB)
	a.ip("link", "set", devA, "up")
	b.ip("link", "set", devB, "up")
}

func serveWire(args []string) error {
	delay, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	lost, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err
	}
	a, err := openTAP(args[2])
	if err != nil {
		return err
	}
	b, err := openTAP(args[3])
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, readyLine)
	go carry(a, b, delay, lost/100)
	carry(b, a, delay, lost/100)
	return nil
}

func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// late is a frame on its way.
type late struct {
	frame []byte
	due   time.Time
}

func carry(from, to *os.File, delay time.Duration, lost float64) {
	queue := make(chan late, wireQueue)
	go func() {
		for l := range queue {
			time.Sleep(time.Until(l.due))
			to.Write(l.frame) // a device that is down loses it
		}
	}()
	buf := make([]byte, wireFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the device is not up yet
			continue
		}
		if rand.Float64() < lost {
			continue
		}
		select {
		case queue <- late{append([]byte(nil), buf[:n]...), time.Now().Add(delay)}:
		default:
		}
	}
}
