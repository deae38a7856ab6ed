//go:build unix

package server

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ginnel/relay/internal/relaytest"
)

// A pipe in the place of a file is refused at once, and the certificate stays.
func TestCertFileBecomesPipe(t *testing.T) {
	dir := t.TempDir()
	f := &certFiles{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	writePEM(t, f.certFile, f.keyFile, relaytest.NewCA(t).Issue(time.Hour, "a.example"))
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	before := f.cert.Load()
	if err := os.Remove(f.certFile); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(f.certFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.reload(); err == nil || !strings.Contains(err.Error(), "cert.pem is not a regular file") {
		t.Errorf("got %v", err)
	}
	if f.cert.Load() != before {
		t.Error("the certificate has changed")
	}
}
