// Package trial runs all measurements of a contender. It starts the nodes, times the start up to
// the first byte, and runs the load generators in processes on the hosts of the lab. These
// processes are roles of the command.
package trial
