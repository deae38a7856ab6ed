// Package programs holds tests only. They run whole networks of real programs: nodes, relays and
// coordination servers, ours beside tailscaled, derper and headscale, each in a process of its own,
// and prove that they work together, by way of a relay and directly, that they outlive a restart of
// any of them, and that they mean the same by policies, routes, and the coming and going of nodes.
// TestJoinTime measures how long joining takes; 'make interop-join' does so in many rounds.
//
// Every program is built once in a run, at the version that the modules of interop,
// interop/headscale and interop/oldest pin; nginx and HAProxy are those of the system. The tests run in a network namespace that is new with each run, and each
// node in one of its own inside that; all of it goes with the run. They need Linux, ip(8) and
// nsenter(1), and root or user namespaces.
//
// The files ending in _test.go without a test in them are named for what is inside.
package programs
