package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"ginnel/internal/sys"
)

// Reaper waits for orphans in a process that inherits them: PID 1 of a container, or a process with
// PR_SET_CHILD_SUBREAPER. Otherwise they would stay as zombies until the limit of processes is
// reached. It does not wait for this program's own children.
type Reaper struct {
	mu  sync.Mutex
	own map[int]bool // children of this program that nobody has waited for yet

	chldc chan os.Signal
	donec chan struct{}
	wg    sync.WaitGroup
}

// startReaper returns nil if this process does not inherit orphans. The methods of a nil Reaper
// work.
func startReaper() *Reaper {
	if os.Getpid() != 1 && !sys.IsSubreaper() {
		return nil
	}
	r := &Reaper{own: make(map[int]bool), chldc: make(chan os.Signal, 1), donec: make(chan struct{})}
	signal.Notify(r.chldc, syscall.SIGCHLD)
	r.wg.Go(r.loop)
	return r
}

// loop reaps once before it waits for signals, because orphans may have ended before this program
// was executed.
func (r *Reaper) loop() {
	for {
		r.reap()
		select {
		case <-r.chldc:
		case <-r.donec:
			return
		}
	}
}

// reap waits for all orphans that have ended.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pid := range endedChildren(os.Getpid()) {
		if !r.own[pid] {
			sys.Reap(pid) // nobody else waits for it
		}
	}
}

// endedChildren returns the zombies among the children of a process. Without /proc it finds none.
func endedChildren(parent int) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has just been waited for
		}
		// pid (comm) state ppid …, where comm may hold any bytes: proc_pid_stat(5)
		var state string
		var ppid int
		fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &ppid)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && state == "Z" && ppid == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Start starts a child of this program. It holds the lock until the child is in own, so that reap
// cannot take it for an orphan.
func (r *Reaper) Start(cmd *exec.Cmd) error {
	if r == nil {
		return cmd.Start()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		r.own[cmd.Process.Pid] = true
	}
	return err
}

// Waited removes a child that this program has waited for. From then on its PID may be that of an
// orphan.
func (r *Reaper) Waited(pid int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, pid)
}

func (r *Reaper) close() {
	if r == nil {
		return
	}
	signal.Stop(r.chldc)
	close(r.donec)
	r.wg.Wait()
}
