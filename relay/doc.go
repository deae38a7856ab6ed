// Package relay speaks DERP, the protocol that carries a mesh's encrypted packets over TCP when no
// direct UDP path works: [Client] and [Pool] for a node, [Server] for a relay, and [Map] for the
// list of relays. Section numbers in comments are those of the project's DERP specification; the
// frames are laid out in frame.go.
//
// # How packets move
//
// Packets travel in batches. A reader takes what one TLS record brought and treats consecutive
// frames for one destination as one run. The server rewrites the frames of a run in place,
// SendPacket into RecvPacket, and hands the run to the receiver's [outbox]: if nobody is writing to
// that receiver the sender's goroutine encrypts and writes it at once, without ever waiting for the
// network; otherwise the run is copied to the queue of its flow, which one goroutine drains. A
// client sends the same way, one outbox for each relay.
//
// # Goroutines
//
// Dialling: one for each address family of the relay, ended by the first that connects, or by the
// context or Close. Client: one that drains its outbox while there is a backlog, ended by Close or
// a failed connection. Pool: one for upkeep, ended by Close; one for each region in use, ended by
// Close, SetMap or idleness; one that waits for an answer on each connection after a network
// change, ended by the answer, 3 s without, or Close. Server: one reader for each connection, ended
// by its connection; one drainer for each outbox with a backlog; one for all keepalives while there
// are clients; one for each watching mesh peer and each mesh link; one that looks after certificate
// files. Close ends and awaits all.
package relay
