//go:build race

package snoop

// underRace shortens long simulations, because they have one goroutine and therefore no data races.
const underRace = true
