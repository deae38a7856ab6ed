package server

import (
	"fmt"
	"os"
)

// reload is load, except that it reads regular files only: a pipe would block the reader, and with
// it the end of the server.
func (f *certFiles) reload() error {
	for _, path := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reading the certificate: %w", err)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("reading the certificate: %s is not a regular file", path)
		}
	}
	return f.load()
}
