// Package trial takes a contender through everything that is measured of it: it starts the nodes,
// times the way to the first byte, and has the load made by processes on the machines of the lab.
// Those are the roles of the command.
package trial
