//go:build unix

package main

import "syscall"

// sessionAttributes take a process away from the terminal and its signals.
func sessionAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func keepFromCommands(fd uintptr) { syscall.CloseOnExec(int(fd)) }
