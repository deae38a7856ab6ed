package proc

import (
	"os"
	"testing"
	"time"
)

// waitLimit is how long a test waits on a busy machine.
const waitLimit = 10 * time.Second

// TestParseStat proves that a name with spaces and parentheses does not shift the fields.
func TestParseStat(t *testing.T) {
	const line = "7 (a) b ( c) S 1 7 7 0 -1 4194560 100 0 0 0 123 45 9 9 20 0 8 0 100 1000 200"
	if got, err := parseStat([]byte(line)); got != 1680*time.Millisecond || err != nil {
		t.Errorf("got %v, %v, want 1.68s", got, err)
	}
	for _, bad := range []string{"", "7 name S 1", "7 (name) S 1 2 3", "7 (a) S 1 7 7 0 -1 4194560 100 0 0 0 x 45 9"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// TestParseStatus proves that fields are found by name, and that a missing one is an error, as for
// a process that has ended.
func TestParseStatus(t *testing.T) {
	const text = "Name:\tVmRSS:\nVmHWM:\t    4096 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n"
	if got, err := parseStatus(text); got != (Memory{Now: 1 << 20, Peak: 4 << 20}) || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "VmRSS:\t 1 kB\n", "VmRSS:\t x kB\nVmHWM:\t 1 kB\n"} {
		if got, err := parseStatus(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// TestSelf proves that this process has CPU time and memory, and that its peak can be reset.
func TestSelf(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for start := time.Now(); after == before && time.Since(start) < waitLimit; {
		if after, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if after <= before {
		t.Errorf("got %v, then %v, want more", before, after)
	}
	large := make([]byte, 32<<20)
	for i := range large {
		large[i] = 1
	}
	m, err := Resident(os.Getpid())
	if err != nil || m.Now < int64(len(large)) || m.Peak < m.Now {
		t.Errorf("with %d bytes: got %v, %v", len(large), m, err)
	}
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Error(err)
	}
}

// TestParseThread proves that the fields are found, and that invalid input is an error.
func TestParseThread(t *testing.T) {
	const status = "Name:\tx\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t123\n"
	if got, err := parseThread("1500 7 3\n", status); got != (Activity{1500, 123}) || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range [][2]string{{"", status}, {"x 7 3", status}, {"1 2 3", ""},
		{"1 2 3", "voluntary_ctxt_switches:\tx\n"}} {
		if got, err := parseThread(bad[0], bad[1]); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// TestThreads proves that wake-ups of a sleeping thread and the CPU time of a working one are
// counted.
func TestThreads(t *testing.T) {
	before, err := Threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const work, wakeups = 10 * time.Millisecond, 5
	after := before
	for start := time.Now(); after.CPU < before.CPU+work && time.Since(start) < waitLimit; {
		if after, err = Threads(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	for start := time.Now(); after.Wakeups < before.Wakeups+wakeups && time.Since(start) < waitLimit; {
		<-time.After(time.Millisecond)
		if after, err = Threads(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if after.Wakeups < before.Wakeups+wakeups || after.CPU < before.CPU+work {
		t.Errorf("got %v, then %v", before, after)
	}
	if got, err := Threads(1 << 30); err == nil {
		t.Errorf("no such process: got %v", got)
	}
}

// TestProcessors proves that idle and iowait count as idle, that guest time is not counted twice,
// and that invalid input is an error.
func TestProcessors(t *testing.T) {
	before, err := parseProcessors("cpu  10 20 30 100 5 1 2 3 9 9\ncpu0 1\n")
	if err != nil || before != (Machine{Idle: 105, Total: 171}) {
		t.Errorf("got %+v, %v", before, err)
	}
	if got := (Machine{Idle: 130, Total: 271}).IdlePercent(before); got != 25 {
		t.Errorf("got %v %%, want 25", got)
	}
	if got := before.IdlePercent(before); got != 0 {
		t.Errorf("no time elapsed: got %v", got)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 x 5 6 7 8\n"} {
		if got, err := parseProcessors(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	if got, err := Processors(); err != nil || got.Total == 0 {
		t.Errorf("this machine: got %+v, %v", got, err)
	}
}
