//go:build unix

package server

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ginnel/relay/internal/relaytest"
)

// Handshakes use the old certificate while a read of the files hangs.
func TestCertFilesOnHungDisk(t *testing.T) {
	dir := t.TempDir()
	f := &certFiles{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	writePEM(t, f.certFile, f.keyFile, relaytest.NewCA(t).Issue(time.Hour, "a.example"))
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	os.Remove(f.certFile)
	if err := syscall.Mkfifo(f.certFile, 0o600); err != nil { // whose reader waits
		t.Fatal(err)
	}
	errc := make(chan error)
	go func() { errc <- f.load() }()
	w, err := os.OpenFile(f.certFile, os.O_WRONLY, 0) // waits for the reader
	if err != nil {
		t.Fatal(err)
	}
	if c, err := f.certificate(&tls.ClientHelloInfo{}); c == nil || err != nil {
		t.Errorf("got %v, %v", c, err)
	}
	w.Close()
	if err := <-errc; err == nil {
		t.Error("nothing was read, no error")
	}
}
