// Package interop holds tests only. They put Ginnel's relay, its clients and its nodes beside the
// programs that the wire formats come from, on loopback and in one process, and prove that both
// sides understand each other.
//
// Package programs, below, does the same with whole programs, coordination servers among them.
//
// It is a module of its own, because it alone imports tailscale.com: the product must not, and a
// reader of its go.mod should see that it does not.
//
// The files ending in _test.go without a test in them are named for what is inside:
// relayhost_test.go serves a relay of either make, party_test.go is a client of either make,
// realnode_test.go is a node of theirs, ournode_test.go one of ours, cut_linux_test.go takes UDP
// away from a socket.
package interop
