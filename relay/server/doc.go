// Package server is a DERP relay: it admits clients by HTTP upgrade or WebSocket, forwards packets
// between them, and shares its clients with the other relays of its region (mesh). The same package
// serves STUN, the pages of a relay's HTTP port, certificates (from files, by ACME or self-signed)
// and Prometheus metrics.
//
// Section numbers in comments are those of the project's DERP specification.
//
// # How packets move
//
// The reader of a connection takes what one TLS record brought and treats consecutive frames for
// one destination as one run. It rewrites the frames of a run in place, SendPacket into RecvPacket,
// and hands the run to the receiver's outbox: if nobody is writing to that receiver, the sender's
// goroutine encrypts and writes the run at once, without ever waiting for the network. Otherwise
// the run is copied to the queue of its flow, which one goroutine drains.
//
// # Goroutines
//
// One reader for each connection, ended by its connection; one drainer for each outbox with a
// backlog; one for all keepalives while there are clients; one for each watching mesh peer and each
// mesh link; one for each pair of certificate files. Close ends all and waits for them.
package server
