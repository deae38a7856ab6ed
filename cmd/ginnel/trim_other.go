//go:build !linux

package main

// trimProgram does nothing: there is no way known to give pages of the program back.
func trimProgram() {}
