// Package programs holds only tests. They run whole networks of real programs, each in its own
// process: nodes, relays and coordination servers, ours beside tailscaled, derper and headscale.
// They prove that these work together through a relay and directly, that the network survives a
// restart of any of them, and that all agree on policies, routes, and nodes that come and go.
// TestJoinTime measures how long joining takes; 'make interop-join' runs it in many rounds.
//
// Every program is built once in a run, at the version that the modules interop, interop/headscale
// and interop/oldest pin. nginx and HAProxy are those of the system. The tests run in a new network
// namespace, and each node in its own namespace inside that; all of them end with the run. They
// need Linux, ip(8) and nsenter(1), and root or user namespaces.
//
// Some files ending in _test.go hold no tests, only what tests use; their names say what.
package programs
