// Package lab holds end-to-end tests of the ginnel program. They run the built binary in a network
// namespace of its own, as a user without capabilities. Its counterparts are a stock WireGuard
// peer, ginnel's own relay and server, and other nodes, on networks that fail in many ways. The
// tests carry the build tag lab and need root, Linux, and these Debian packages: iproute2,
// nftables, tcpdump, netcat-openbsd, curl, iputils-ping and util-linux.
//
//	go test -tags lab -count 1 ./internal/lab
//
// A test builds its networks with newNetns and link (netns_test.go), usually as a site with a
// WireGuard peer (site_test.go) or as a mesh of two nodes (mesh_test.go). Every server in a
// namespace is a process: the program under test, wireguard-go, or this test binary in one of its
// roles (roles_test.go). The client is the test itself, through sockets that it opens in a
// namespace (netns.dial), or a program such as curl. Everything ends with its test. Outside its
// namespaces a run touches only /etc/netns and a directory under /tmp, and the names there carry
// its process ID.
package lab
