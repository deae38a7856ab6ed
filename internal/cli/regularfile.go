package cli

import (
	"fmt"
	"os"
)

// CheckRegular returns an error unless path is a regular file. Files that are read again must be
// regular, because a pipe can be read only once, and a second reader would wait for ever.
func CheckRegular(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file, and nothing else is read again", path)
	}
	return nil
}
