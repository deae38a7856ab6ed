package main

import (
	"fmt"
	"os"
)

// checkRegular refuses to read again what is not a regular file: a pipe, which is good for one
// reading at the start, would keep its reader waiting.
func checkRegular(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file, and nothing else is read again", path)
	}
	return nil
}
