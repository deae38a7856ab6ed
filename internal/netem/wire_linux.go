package netem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	frameHeader = 14      // bytes of Ethernet header before the packet
	frameSize   = 2 << 10 // bytes; any frame of a device with an MTU of 1500 fits
	readBatch   = 64      // frames to read before due ones are delivered
	pollLimit   = 100 * time.Millisecond
	// maxInterval bounds lane.interval.
	maxInterval = 100 * time.Microsecond
)

// TAP is one end of a Wire: a TAP device, whose frames this process reads and writes.
type TAP struct {
	Name string
	fd   int
}

// OpenTAP creates a TAP device in the network namespace of the calling thread. The device may be
// moved to another namespace afterwards, and Close removes it. It has no offloads, so that its
// frames are as they are on a wire.
func OpenTAP(name string) (*TAP, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netem: creating TAP device %s: %w", name, err)
	}
	return &TAP{Name: name, fd: fd}, nil
}

// Close removes the device.
func (t *TAP) Close() error { return unix.Close(t.fd) }

// Wire joins two TAP devices.
type Wire struct {
	forward, back lane
}

// NewWire returns a Wire between a and b. The Wire does not close them.
func NewWire(a, b *TAP, forward, back *Direction) *Wire {
	return &Wire{forward: newLane(a, b, forward), back: newLane(b, a, back)}
}

// Run carries frames until the context ends.
func (w *Wire) Run(ctx context.Context) error {
	start := time.Now()
	errs := make([]error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = w.forward.run(ctx, start) })
	wg.Go(func() { errs[1] = w.back.run(ctx, start) })
	wg.Wait()
	return errors.Join(errs...)
}

// Stats returns the counters of both directions.
func (w *Wire) Stats() (forward, back Stats) { return w.forward.stats(), w.back.stats() }

// lane forwards the frames of one direction.
type lane struct {
	from, to *TAP
	// interval is the pause between two rounds of a busy lane, so that frames share the cost of a
	// round. It is also how early or late frames may be delivered under load. Single frames are on
	// time.
	interval time.Duration
	inFlight flight
	free     [][]byte // buffers of frames that have been delivered

	mu    sync.Mutex // guards model, for stats
	model *Direction
}

func newLane(from, to *TAP, model *Direction) lane {
	return lane{from: from, to: to, model: model, interval: min(maxInterval, model.cfg.Delay/100)}
}

func (l *lane) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Stats()
}

// run locks its thread and sets the thread's timer slack to 1 ns. The default of 50 us would be a
// tenth of a short round trip.
func (l *lane) run(ctx context.Context, start time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // best effort
	for ctx.Err() == nil {
		taken, err := l.take(start)
		if err != nil {
			return err
		}
		delivered := l.deliver(time.Since(start) + l.interval/2)
		if taken+delivered > 1 {
			pause(l.interval)
			continue
		}
		if err := l.wait(l.inFlight.next() - time.Since(start)); err != nil {
			return err
		}
	}
	return nil
}

// take reads the frames that the device has. A device that is down or was removed has none.
func (l *lane) take(start time.Time) (taken int, err error) {
	for taken < readBatch {
		b := l.buffer()
		n, errno := transfer(unix.SYS_READ, l.from.fd, b)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.EIO:
			l.free = append(l.free, b)
			return taken, nil
		default:
			return taken, fmt.Errorf("netem: reading from %s: %w", l.from.Name, errno)
		}
		taken++
		l.mu.Lock()
		arrival, v := l.model.Send(time.Since(start), n-frameHeader)
		l.mu.Unlock()
		if v != Delivered {
			l.free = append(l.free, b)
			continue
		}
		l.inFlight.add(arrival, b[:n])
	}
	return taken, nil
}

func (l *lane) buffer() []byte {
	n := len(l.free) - 1
	if n < 0 {
		return make([]byte, frameSize)
	}
	b := l.free[n]
	l.free = l.free[:n]
	return b[:frameSize]
}

// deliver writes the frames whose arrival is at now or earlier.
func (l *lane) deliver(now time.Duration) (delivered int) {
	for l.inFlight.next() <= now {
		f := l.inFlight.take()
		transfer(unix.SYS_WRITE, l.to.fd, f.b) // a device that is down drops the frame
		l.free = append(l.free, f.b)
		delivered++
	}
	return delivered
}

// transfer reads or writes a frame by a raw system call, without entersyscall, because the TAP
// device does not block.
func transfer(call uintptr, fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// pause sleeps without entersyscall, because d is at most maxInterval. It holds the P meanwhile.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

// wait waits until there is a frame to read, for at most d or pollLimit.
func (l *lane) wait(d time.Duration) error {
	d = min(d, pollLimit)
	if d <= 0 {
		return nil
	}
	timeout := unix.NsecToTimespec(int64(d))
	_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(l.from.fd), Events: unix.POLLIN}}, &timeout, nil)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("netem: polling %s: %w", l.from.Name, err)
	}
	return nil
}
