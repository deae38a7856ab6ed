package sys

import (
	"net"
	"os"
	"syscall"
)

// DieWithParent returns attributes by which the kernel sends SIGTERM to a child when this process
// dies. It returns nil where the system has nothing like that.
func DieWithParent() *syscall.SysProcAttr { return dieWithParent() }

// OwnSession returns attributes that give a child a session of its own, away from the terminal and
// its signals. It returns nil where there are no sessions.
func OwnSession() *syscall.SysProcAttr { return ownSession() }

// CloseOnExec keeps an inherited descriptor from the commands that this process starts.
func CloseOnExec(fd uintptr) { closeOnExec(fd) }

// Lock takes an exclusive lock on a file that ends with the process, or fails at once (flock(2)).
// It does nothing where package syscall knows no such lock.
func Lock(f *os.File) error { return lock(f) }

// InForeground reports whether this process is in the foreground process group of its terminal,
// which gets the signals of the keyboard as a whole.
func InForeground() bool { return inForeground() }

// DeathSignal returns the signal that a process died by; ok is false if it did not.
func DeathSignal(state *os.ProcessState) (s syscall.Signal, ok bool) { return deathSignal(state) }

// IsSubreaper reports whether orphaned descendants become children of this process
// (PR_SET_CHILD_SUBREAPER).
func IsSubreaper() bool { return isSubreaper() }

// Reap waits for a child that has ended, if it has.
func Reap(pid int) { reap(pid) }

// Peek waits for the first byte of a connection. It returns a connection that still has it: conn
// itself where the kernel can leave the byte in the socket (MSG_PEEK).
func Peek(conn net.Conn) (byte, net.Conn, error) { return peek(conn) }
