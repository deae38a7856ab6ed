//go:build race

package relaytest

// RaceSlack is what the race detector adds to allocations: it has pools forget things.
const RaceSlack = 10
