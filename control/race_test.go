//go:build race

package control

// raceSlack is what the race detector adds to allocations: it has pools forget things.
const raceSlack = 10
