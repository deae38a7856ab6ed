package netem

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	frameHeader = 14      // of Ethernet, which a TAP device has before the packet
	frameSize   = 2 << 10 // holds any frame of a device with an MTU of 1500
	readBatch   = 64      // frames read before due ones are delivered
	pollLimit   = 100 * time.Millisecond
)

// TAP is one end of a Wire: a network device whose frames this process reads and writes.
type TAP struct {
	Name string
	fd   int
}

// OpenTAP makes a TAP device in the network namespace of the calling thread. It may be moved to another one afterwards,
// and is gone when the TAP is closed. The device has no offloads, so the kernel hands over frames as they are on a wire.
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
		return nil, fmt.Errorf("netem: making TAP device %s: %w", name, err)
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
	return &Wire{forward: lane{from: a, to: b, model: forward}, back: lane{from: b, to: a, model: back}}
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

// lane carries the frames of one direction.
type lane struct {
	from, to *TAP
	flying   flight
	count    uint64   // of frames so far, which orders those that arrive at the same time
	free     [][]byte // buffers of frames that have arrived

	mu    sync.Mutex // held while the model is asked
	model *Direction
}

func (l *lane) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Stats()
}

// run has a thread of its own, with a timer slack of 1 ns, because the default of 50 us is a tenth of a short round trip.
func (l *lane) run(ctx context.Context, start time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // best effort
	for ctx.Err() == nil {
		if err := l.take(start); err != nil {
			return err
		}
		next := l.deliver(time.Since(start))
		if err := l.wait(next - time.Since(start)); err != nil {
			return err
		}
	}
	return nil
}

// take reads the frames that wait in the device. One that is down or has gone has none.
func (l *lane) take(start time.Time) error {
	for range readBatch {
		b := l.buffer()
		n, err := unix.Read(l.from.fd, b)
		switch {
		case err == nil:
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN || err == unix.EIO:
			l.free = append(l.free, b)
			return nil
		default:
			return fmt.Errorf("netem: reading from %s: %w", l.from.Name, err)
		}
		l.mu.Lock()
		arrival, v := l.model.Send(time.Since(start), n-frameHeader)
		l.mu.Unlock()
		if v != Delivered {
			l.free = append(l.free, b)
			continue
		}
		l.count++
		heap.Push(&l.flying, frame{arrival, l.count, b[:n]})
	}
	return nil
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

// deliver writes the frames that arrive by now, and returns when the next one does.
func (l *lane) deliver(now time.Duration) (next time.Duration) {
	for len(l.flying) > 0 && l.flying[0].arrival <= now {
		f := heap.Pop(&l.flying).(frame)
		unix.Write(l.to.fd, f.b) // a device that is down loses it
		l.free = append(l.free, f.b)
	}
	if len(l.flying) == 0 {
		return now + pollLimit
	}
	return l.flying[0].arrival
}

// wait returns when there is a frame to read or after d, at the latest after pollLimit.
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

// frame is on its way.
type frame struct {
	arrival time.Duration
	number  uint64
	b       []byte
}

// flight is a heap of frames, the next to arrive first.
type flight []frame

func (f flight) Len() int      { return len(f) }
func (f flight) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f flight) Less(i, j int) bool {
	return f[i].arrival < f[j].arrival || f[i].arrival == f[j].arrival && f[i].number < f[j].number
}

// Push implements heap.Interface.
func (f *flight) Push(x any) { *f = append(*f, x.(frame)) }

// Pop implements heap.Interface.
func (f *flight) Pop() any {
	old := *f
	last := old[len(old)-1]
	old[len(old)-1] = frame{}
	*f = old[:len(old)-1]
	return last
}
