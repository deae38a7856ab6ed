// Package derpload generates the traffic by which relays are compared: many DERP clients, in pairs,
// through one server. The clients are the product's for every server. Their own speed does not
// affect the figures that count, because those are per second of the server's processor time.
//
// # Goroutines
//
// Each client has one goroutine, which reads until Close. Each pair in a flood has one more, which
// sends until the time is over. A measurement ends and awaits all of its goroutines.
package derpload
