package main

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

// reaper waits for processes whose parents have ended, in a process that gets them: PID 1 of a
// container, or one with PR_SET_CHILD_SUBREAPER. Nobody else would, and they would stay as zombies
// until the limit of processes is reached. It leaves this program's own children to whoever has
// started them.
type reaper struct {
	mu  sync.Mutex
	own map[int]bool // children of this program that nobody has waited for yet

	chldc chan os.Signal
	donec chan struct{}
	wg    sync.WaitGroup
}

// startReaper returns nil where no orphans come to this process. A nil reaper works.
func startReaper() *reaper {
	if os.Getpid() != 1 && !sys.IsSubreaper() {
		return nil
	}
	r := &reaper{own: make(map[int]bool), chldc: make(chan os.Signal, 1), donec: make(chan struct{})}
	signal.Notify(r.chldc, syscall.SIGCHLD)
	r.wg.Go(r.loop)
	return r
}

// loop looks for orphans first, since some may have ended before this program was executed.
func (r *reaper) loop() {
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
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pid := range endedChildren(os.Getpid()) {
		if !r.own[pid] {
			sys.Reap(pid) // nobody else waits for it
		}
	}
}

// endedChildren are the zombies among the children of a process. Without /proc none are found.
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

// start starts a child of this program. The lock is held until the child is known to be one.
func (r *reaper) start(cmd *exec.Cmd) error {
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

// waited is called when a child of this program has been waited for. Its number may be that of an
// orphan then.
func (r *reaper) waited(pid int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, pid)
}

func (r *reaper) close() {
	if r == nil {
		return
	}
	signal.Stop(r.chldc)
	close(r.donec)
	r.wg.Wait()
}
