//go:build !unix

package main

import "os"

// lockFile does nothing: this system has no lock that ends with the process and that package
// syscall knows.
func lockFile(*os.File) error { return nil }
