package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// Activity is what the threads of a process have done since their start.
type Activity struct {
	CPU     time.Duration // from schedstat, in nanoseconds; the function CPU has ticks of 10 ms
	Wakeups uint64        // voluntary context switches; each ends with a wake-up
}

// Threads returns the sum over all current threads of a process. Threads that have ended are not
// included.
func Threads(pid int) (a Activity, err error) {
	threads, err := os.ReadDir(path(pid, "task"))
	if err != nil {
		return a, err
	}
	for _, t := range threads {
		one, err := thread(path(pid, "task/"+t.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return a, err
		}
		a.CPU, a.Wakeups = a.CPU+one.CPU, a.Wakeups+one.Wakeups
	}
	return a, nil
}

func thread(dir string) (a Activity, err error) {
	times, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return a, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return a, err
	}
	return parseThread(string(times), string(status))
}

// parseThread reads the first field of schedstat and the voluntary context switches of status.
func parseThread(times, status string) (a Activity, err error) {
	first, _, _ := strings.Cut(times, " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return a, fmt.Errorf("reading the CPU time of a thread: %w", err)
	}
	for line := range strings.Lines(status) {
		if text, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			if err != nil {
				return a, fmt.Errorf("reading the context switches of a thread: %w", err)
			}
			return Activity{time.Duration(ns), n}, nil
		}
	}
	return a, errors.New("reading the context switches of a thread: no such field")
}
