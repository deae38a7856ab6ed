// Package bbr is a congestion control: it decides how fast a sender may send and how much it may
// have in flight. It implements BBR (draft-ietf-ccwg-bbr), which models a path by its bottleneck
// bandwidth and round-trip time, and paces at that bandwidth instead of sending until packets are
// lost.
//
// Model follows version 3 of BBR with one change. In version 3, a round with more than 2 % loss
// means congestion. Model requires in addition that the round-trip time shows a queue, unless the
// loss is heavy. Therefore random loss, as on long and wireless paths, does not slow down a
// connection, while the tail drops of a shared bottleneck do.
//
// On short paths, those of a local network, bandwidth and queue cannot be measured. There Model has
// a congestion window as Reno has, and does not pace.
//
// A Model has no clock, goroutine or lock: its owner passes the time.
package bbr
