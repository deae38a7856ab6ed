//go:build !race

package relaytest

// RaceSlack is what the race detector adds to allocations.
const RaceSlack = 0
