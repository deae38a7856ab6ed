//go:build !unix

package main

import "syscall"

// sessionAttributes are the defaults. Files cannot be handed to a process here, so that starting
// one in the background fails, and says so.
func sessionAttributes() *syscall.SysProcAttr { return nil }

func keepFromCommands(uintptr) {}
