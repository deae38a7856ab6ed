// Package bbr decides how fast a sender may send and how much it may have in flight, by BBR
// (draft-ietf-ccwg-bbr): it models the path by its bottleneck bandwidth and its round-trip time,
// and paces at that bandwidth instead of sending until packets are lost.
//
// Model follows version 3 of the algorithm with one change. Version 3 takes a round in which more
// than 2 % of the packets are lost for congestion. Model does so only if the round-trip time tells
// of a queue, too, or if the loss is heavy. Random loss, which long and wireless paths have, then
// does not slow a connection down, while the tail drops of a shared bottleneck still do.
//
// On short paths, those of a local network, none of this can be measured. Model has a plain
// congestion window there, as Reno's, and does not pace.
//
// A Model has no clock, no goroutine and no lock: its owner calls it with the time.
package bbr
