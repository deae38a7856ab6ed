//go:build !race

package relay

const raceSlack = 0
