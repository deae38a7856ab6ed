//go:build !linux

package sys

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
func isSubreaper() bool                   { return false }
func reap(int)                            {}
