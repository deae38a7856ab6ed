// Command peers compares ginnel with other programs on this machine, on a switch without delay, and
// prints a table. It builds the programs and creates the networks, and removes everything except
// the built programs. It needs Linux, Go, ip(8) and nsenter(1), and root or user namespaces.
package main

import (
	"os"

	"ginnel/bench/session"
	"ginnel/bench/trial"
)

func main() { os.Exit(session.Main(os.Args[1:], trial.RunRole, parse)) }
