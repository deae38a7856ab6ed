package main

import "syscall"

// childAttributes has the system end the command if this process is killed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
