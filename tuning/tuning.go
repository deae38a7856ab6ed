// Package tuning fits the Go runtime of this process to the work of a mesh node, which is many
// small packets and long pauses. The settings belong to the process, so one package owns them all:
// the number of Ps (GOMAXPROCS), spinning for the next packet, giving memory back, Go's memory
// limit.
//
// Start is the only door. A program that embeds nodes calls it once and gives the result to each:
//
//	t, err := tuning.Start(tuning.Config{})
//	defer t.Close()
//	n, err := node.New(node.Config{Tuning: t, …})
//
// The package is not under internal/, because such a program has the same wishes as the command.
// A program that sets GOMAXPROCS itself sets Config.Mode to Off, or does not call Start.
//
// The parts, each with its reason, its gain and the benchmark that shows the gain:
//
//	processors.go  one P while one is enough, all Ps otherwise (policy.go decides, load.go measures)
//	spin.go        poll the network instead of sleeping during a dialogue
//	yield.go       let the receivers of packets run before more packets are read
//	trim.go        give memory and program pages back while the process is idle
//	memory.go      the memory budget and the limits of the control group (cgroup.go)
//	workalarm.go   wait without a timer until the process works again
//	stack.go       grow the stack of a connection's goroutine once
//
// The package needs no build tags. Where the system does not tell the processor time of the process
// (package internal/sys: not Linux, or the build tag ginnel_stdnet), only the memory budget and the
// single P of a small budget remain.
//
// Goroutines: one chooses the Ps, one spins, one trims. Close ends them and waits.
package tuning

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"ginnel/internal/sys"
)

// Mode says how much is tuned.
type Mode uint8

// On is everything. Off keeps the memory budget only, because that protects the process from being
// killed by its control group: GOMAXPROCS stays as it is, nothing spins, yields or is given back.
const (
	On Mode = iota
	Off
)

// ParseMode reads "on" or "off".
func ParseMode(text string) (Mode, error) {
	switch text {
	case "on":
		return On, nil
	case "off":
		return Off, nil
	}
	return On, fmt.Errorf("%q is neither on nor off", text)
}

// String returns what ParseMode reads.
func (m Mode) String() string {
	if m == Off {
		return "off"
	}
	return "on"
}

// Config is what Start needs. The zero value tunes everything.
type Config struct {
	Mode Mode

	// Memory is the budget of the process in bytes, MinMemory at least. 0 means half of the control
	// group's limit or a quarter of the machine's memory, whichever is less, and at most 640 MiB.
	Memory int64

	Log *slog.Logger // nil discards
}

// ErrStarted means that the process is tuned already. Its settings cannot have two owners.
var ErrStarted = errors.New("tuning: started already")

// started is true from Start to Close. It stands for the settings of the process, which no value
// can own: GOMAXPROCS, the memory limit and the interval timer.
var started atomic.Bool

// Process is this process while it is tuned. Any goroutine may call its methods. A nil *Process is
// one that is not tuned: its methods do nothing and return 0.
type Process struct {
	memory     int64
	oldLimit   int64 // Go's memory limit before Start
	processors int
	log        *slog.Logger

	procs   procs
	spinner *spinner

	once  sync.Once
	stopc chan struct{}
	wg    sync.WaitGroup
}

// Start tunes the process until Close.
func Start(cfg Config) (*Process, error) {
	if cfg.Memory != 0 && cfg.Memory < MinMemory {
		return nil, fmt.Errorf("tuning: a memory budget of %d bytes is less than %d", cfg.Memory, MinMemory)
	}
	if cfg.Mode > Off {
		return nil, fmt.Errorf("tuning: unknown mode %d", cfg.Mode)
	}
	if !started.CompareAndSwap(false, true) {
		return nil, ErrStarted
	}
	p := &Process{
		memory:     budget(cfg.Memory, os.DirFS("/")),
		processors: runtime.GOMAXPROCS(0),
		log:        cfg.Log,
		spinner:    newSpinner(),
		stopc:      make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.oldLimit = limitRuntime(p.memory)
	p.log.Debug("memory budget set", "bytes", p.memory)
	if cfg.Mode == On {
		p.start()
	} else {
		p.log.Debug("process tuning is off")
	}
	return p, nil
}

func (p *Process) start() {
	p.procs.one.Store(p.processors == 1)
	_, err := sys.ProcessorTime()
	measurable := err == nil
	if measurable {
		p.wg.Go(p.trimWhenIdle)
	}
	switch small := p.memory < onePMemory; {
	case os.Getenv("GOMAXPROCS") != "": // the user has chosen
	case small || measurable && runtime.NumCPU() == 1:
		p.procs.useOne()
	case measurable:
		p.procs.useOne()
		p.wg.Go(p.spin)
		p.wg.Go(p.chooseProcessors)
	}
}

// Close ends the tuning and gives the process back the settings of Go's runtime. It may be called
// more than once.
func (p *Process) Close() {
	if p != nil {
		p.once.Do(p.close)
	}
}

func (p *Process) close() {
	close(p.stopc)
	p.wg.Wait()
	p.procs.restore()
	debug.SetMemoryLimit(p.oldLimit)
	started.Store(false)
}

// Memory returns the budget in bytes, by which a node sizes its buffers.
func (p *Process) Memory() int64 {
	if p == nil {
		return 0
	}
	return p.memory
}

// Processors returns how many processors the process may use at most: GOMAXPROCS when Start was
// called. What GOMAXPROCS is later says only what the process needs at that moment.
func (p *Process) Processors() int {
	if p == nil {
		return 0
	}
	return p.processors
}
