//go:build !linux

package cli

import "os/exec"

// Reaper does nothing here: only on Linux does a process other than the first inherit orphans.
type Reaper struct{}

func startReaper() *Reaper { return nil }

func (*Reaper) Start(cmd *exec.Cmd) error { return cmd.Start() }
func (*Reaper) Waited(int)                {}
func (*Reaper) close()                    {}
