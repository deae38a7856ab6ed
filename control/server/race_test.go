//go:build race

package server

// raceEnabled has tests do less: everything is slower.
const raceEnabled = true
