// Package relay is the client of DERP, the protocol that carries a mesh's encrypted packets over
// TCP when no direct UDP path works: [Client] is a connection to one relay, [Pool] a node's
// connections to all, and [Map] the list of relays by region. The relay itself is package
// relay/server; frames and queues, which both need, are package relay/internal/derp.
//
// Section numbers in comments are those of the project's DERP specification.
//
// # How packets move
//
// Packets travel in batches. A reader takes what one TLS record brought and treats consecutive
// frames from one source as one batch. A sender writes into the outbox of its relay: if nobody is
// writing to that relay, the sender's goroutine encrypts and writes at once, without ever waiting
// for the network. Otherwise the frames are copied to the queue of their flow, which one goroutine
// drains.
//
// # Goroutines
//
// Dialling: one for each address family of the relay, ended by the first that connects, or by the
// context or Close. Client: one that drains its outbox while there is a backlog, ended by Close or
// a failed connection. Pool: one for upkeep, ended by Close; one for each region in use, ended by
// Close, SetMap or idleness; one that waits for the answer to a ping on each connection that is
// being checked, ended by the answer, after 3 s, or by Close. Close ends all and waits for them.
package relay
