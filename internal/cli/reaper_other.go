//go:build !linux

package cli

import "os/exec"

// Reaper is of use where orphans come to a process other than the system's own.
type Reaper struct{}

func startReaper() *Reaper { return nil }

func (*Reaper) Start(cmd *exec.Cmd) error { return cmd.Start() }
func (*Reaper) Waited(int)                {}
func (*Reaper) close()                    {}
