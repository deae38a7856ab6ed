//go:build !race

package control

const raceSlack = 0
