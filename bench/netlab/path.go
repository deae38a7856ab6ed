package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ginnel/internal/netem"
)

// Path is an emulated path between the switch and a host. The zero value is a link without delay.
type Path struct {
	Forward netem.Config // from the switch to the host
	Back    netem.Config // from the host to the switch
}

// Counters are the counters of both directions of a path.
type Counters struct {
	Forward, Back netem.Stats
	// Overrun counts packets that the devices dropped because the emulator did not read them in
	// time. If it is not zero, the path did not have its configured properties.
	Overrun uint64
}

const (
	// queueLength is the queue of a TAP device in frames. A large window exceeds the default of
	// 1000, and the device would drop the excess before it reaches the emulated bottleneck.
	queueLength = "10000"
	// emulatorLimit bounds the start of an emulator and each answer.
	emulatorLimit = 10 * time.Second
)

var emulatorReadyLine = regexp.MustCompile(emulatorReady)

// emulator is a process that runs [Emulate].
type emulator struct {
	process *Process

	mu      sync.Mutex // held during a request to the process
	pipe    *os.File
	answers *json.Decoder // of pipe
}

// CheckEmulation returns an error if this process cannot create the devices of a path.
func CheckEmulation() error {
	tap, err := netem.OpenTAP("check")
	if err != nil {
		return explain(err)
	}
	return tap.Close()
}

// startEmulator starts the emulator of a path between two devices and waits until they exist.
func (l *Lab) startEmulator(near, far string, p Path) (*emulator, error) {
	cmd := l.cfg.Emulate(near, far, p.Forward.String(), p.Back.String())
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	cmd.ExtraFiles = []*os.File{write}
	process, err := l.Start("path "+near, cmd)
	if err != nil {
		read.Close()
		return nil, err
	}
	e := &emulator{process: process, pipe: read, answers: json.NewDecoder(read)}
	ctx, cancel := context.WithTimeout(context.Background(), emulatorLimit)
	defer cancel()
	if _, err := process.Await(ctx, emulatorReadyLine); err != nil {
		e.close()
		return nil, fmt.Errorf("emulating a path: %w", err)
	}
	return e, nil
}

func (e *emulator) close() {
	e.process.Kill()
	e.pipe.Close()
}

// counters asks the process for its counters.
func (e *emulator) counters() (c Counters, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.process.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return c, errors.Join(fmt.Errorf("asking for the counters of a path: %w", err), e.process.Check())
	}
	e.pipe.SetReadDeadline(time.Now().Add(emulatorLimit))
	if err := e.answers.Decode(&c); err != nil {
		return c, errors.Join(fmt.Errorf("reading the counters of a path: %w", err), e.process.Check())
	}
	return c, nil
}

// Sub returns what has been counted since earlier.
func (c Counters) Sub(earlier Counters) Counters {
	return Counters{
		difference(c.Forward, earlier.Forward), difference(c.Back, earlier.Back), c.Overrun - earlier.Overrun,
	}
}

func difference(a, b netem.Stats) netem.Stats {
	return netem.Stats{
		Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes, QueueFull: a.QueueFull - b.QueueFull,
		Lost: a.Lost - b.Lost, TooLong: a.TooLong - b.TooLong, Late: a.Late - b.Late,
	}
}

// sendDrops reads from /proc/PID/net/dev how many packets a device has dropped instead of sending.
func sendDrops(pid, device string) (uint64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/net/dev")
	if err != nil {
		return 0, err
	}
	return parseSendDrops(string(b), device)
}

func parseSendDrops(text, device string) (uint64, error) {
	for line := range strings.Lines(text) {
		name, counters, ok := strings.Cut(strings.TrimSpace(line), ":")
		if fields := strings.Fields(counters); ok && name == device && len(fields) > 11 {
			return strconv.ParseUint(fields[11], 10, 64)
		}
	}
	return 0, fmt.Errorf("reading the counters of device %s: no such device", device)
}
