//go:build race

package snoop

// underRace makes long simulations short: they have one goroutine, in which no race can be found.
const underRace = true
