// Package protect replaces the package with the OpenBSD calls by which wireproxy drops privileges.
// Here they do nothing.
package protect

// Pledge does nothing.
func Pledge(string) error { return nil }

// Unveil does nothing.
func Unveil(string, string) error { return nil }

// UnveilBlock does nothing.
func UnveilBlock() error { return nil }
