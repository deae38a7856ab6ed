// Command peers compares ginnel with its peers on this machine, on a switch without delay, and
// prints a table. It makes all that it needs, programs and networks, and removes it again but for
// the built programs. It needs Linux, Go, ip(8) and nsenter(1), and root or user namespaces.
package main

import (
	"os"

	"ginnel/bench/session"
	"ginnel/bench/trial"
)

func main() { os.Exit(session.Main(os.Args[1:], trial.Play, parse)) }
