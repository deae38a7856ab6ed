package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"ginnel/internal/netem"
)

const (
	// emulatorReady is what the emulator writes once its devices exist and it handles SIGUSR1.
	emulatorReady = "emulating"
	// answerDescriptor is the descriptor for the emulator's counters: the first of cmd.ExtraFiles.
	answerDescriptor = 3
	// emulatorNice is the emulator's nice value. The emulator stands for hardware, so the programs
	// under test must not delay it.
	emulatorNice = -15
)

// Emulate is the main function of the emulator of one path. It creates two TAP devices and carries
// frames between them until the context ends. For each SIGUSR1 it writes its [Counters] as JSON to
// descriptor 3. The arguments are the names of the two devices and both directions in the form of
// [netem.Config.String].
func Emulate(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 4 {
		return fmt.Errorf("emulating a path: need two devices and two directions, got %q", args)
	}
	var taps [2]*netem.TAP
	var directions [2]*netem.Direction
	for i := range taps {
		cfg, err := netem.Parse(args[2+i])
		if err != nil {
			return err
		}
		directions[i] = netem.NewDirection(cfg, rand.Uint64())
		if taps[i], err = netem.OpenTAP(args[i]); err != nil {
			return explain(err)
		}
		defer taps[i].Close()
	}
	raisePriority()
	w := netem.NewWire(taps[0], taps[1], directions[0], directions[1])
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { answer(ctx, w, asked, os.NewFile(answerDescriptor, "answers")) })
	fmt.Fprintln(out, emulatorReady)
	return w.Run(ctx)
}

// answer writes the counters of w for each signal until the context ends.
func answer(ctx context.Context, w *netem.Wire, asked <-chan os.Signal, out io.Writer) {
	enc := json.NewEncoder(out)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		}
		var c Counters
		c.Forward, c.Back = w.Stats()
		if enc.Encode(c) != nil {
			return // the reader sees the end of the pipe
		}
	}
}

// raisePriority raises the priority of each thread, because a nice value belongs to a thread in
// Linux. Threads that are created later inherit it. Without CAP_SYS_NICE the priority stays as it
// is.
func raisePriority() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			syscall.Setpriority(syscall.PRIO_PROCESS, id, emulatorNice)
		}
	}
}

// explain adds to an error of opening a TAP device what the system lacks.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: emulated paths need the kernel's tun driver", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: emulated paths need read and write access to /dev/net/tun: run as root", err)
	}
	return err
}
