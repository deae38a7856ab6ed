//go:build unix

package configs

// modeTells says that a file's mode tells who may read it.
const modeTells = true
