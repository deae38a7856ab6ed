// Command paths compares ginnel with the kernel's TCP and with other programs on emulated long,
// narrow and lossy paths, and prints tables. It builds the programs, creates the networks and
// removes the networks again. It needs Linux with TAP devices, Go, ip(8) and nsenter(1), and root,
// or user namespaces and access to /dev/net/tun.
package main

import (
	"os"

	"ginnel/bench/session"
	"ginnel/bench/trial"
)

func main() { os.Exit(session.Main(os.Args[1:], trial.RunRole, parse)) }
