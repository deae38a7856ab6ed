// Package lab holds end-to-end tests of the ginnel program: the built binary, running as a user
// without any capability in a network namespace of its own, against a stock WireGuard peer, its own
// relay, other nodes and what networks do to all of them. The tests carry the build tag lab and
// need root, Linux, and these Debian packages: iproute2, nftables, tcpdump, netcat-openbsd, curl,
// iputils-ping and util-linux.
//
//	go test -tags lab -count 1 ./internal/lab
//
// A test builds its networks with newNetns and link (netns_test.go), usually as a site with a
// WireGuard peer (site_test.go) or a mesh of two nodes (mesh_test.go). Whatever serves in a
// namespace is a process there: the program under test, wireguard-go, or this test's own binary in
// one of its roles (roles_test.go). What asks is the test itself, by sockets that it makes in a
// namespace (netns.dial), or a program such as curl. Everything ends with its test, and nothing
// outside of these namespaces is touched but /etc/netns and a directory under /tmp, both named for
// the run.
package lab
