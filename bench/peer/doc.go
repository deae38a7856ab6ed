// Package peer builds and runs the programs that are compared: pairs of nodes with the servers they
// need, and relays on their own. Every program is built from its own module at the version pinned
// there, and runs with the settings it comes with; only addresses, keys and where state is kept are
// given.
package peer
