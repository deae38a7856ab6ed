//go:build !unix

package configs

// modeTells is false where access is not governed by the mode.
const modeTells = false
