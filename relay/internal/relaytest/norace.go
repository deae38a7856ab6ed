//go:build !race

package relaytest

const RaceSlack = 0
