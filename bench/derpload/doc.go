// Package derpload makes the traffic by which relays are compared: many clients that speak DERP, in
// pairs, through one server. The clients are those of the product, for every server alike. What a
// figure is worth does not depend on how fast they are, for it is taken per second of the server's
// own processor time.
//
// # Goroutines
//
// One for each client, which reads until Close; one more for each pair in a flood, which sends
// until the time is over. A measurement ends and awaits all of its own.
package derpload
