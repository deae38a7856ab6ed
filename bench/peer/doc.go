// Package peer builds and runs the programs that are compared: pairs of nodes with the servers they
// need, and relays on their own. Every program is built from its own module at the version pinned
// there. It runs with its default settings, except for addresses, keys and directories.
package peer
