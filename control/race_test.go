//go:build race

package control

// raceSlack is how many allocations the race detector may add, because it makes sync.Pool drop
// items at random.
const raceSlack = 10
