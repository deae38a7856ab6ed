// Package interop holds only tests. They run Ginnel's relay, clients and nodes against the programs
// that define the wire formats, on loopback and in one process, and prove that both sides
// understand each other.
//
// Package programs, below, does the same with whole programs, including coordination servers.
//
// This is a separate module because it imports tailscale.com, which the product must not do. The
// product's go.mod shows that it does not.
//
// Some files ending in _test.go hold no tests, only what tests use: relayhost_test.go serves a
// relay of either make, client_test.go is a relay client of either make, theirnode_test.go and
// ournode_test.go are the nodes, and cut_linux_test.go drops UDP packets.
package interop
