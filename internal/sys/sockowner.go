package sys

import "net/netip"

// ConnOwner returns the user of the socket that is bound to client and connected to server, both on
// this machine. ok is false if there is no such established connection, or if the system does not
// tell. User 65534 can be one that the user namespace does not know.
func ConnOwner(client, server netip.AddrPort) (user int, ok bool) { return connOwner(client, server) }
