//go:build !linux

package main

import "syscall"

// childAttributes are the defaults: this system does not end a command with the process that
// started it.
func childAttributes() *syscall.SysProcAttr { return nil }
