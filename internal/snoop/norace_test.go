//go:build !race

package snoop

const underRace = false
