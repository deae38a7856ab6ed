//go:build unix

package relay

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe in the place of a file is not read, since its reader would wait. Handshakes go on with the
// certificate that there is.
func TestCertFileBecomesPipe(t *testing.T) {
	dir := t.TempDir()
	f := &certFiles{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	writePEM(t, f.certFile, f.keyFile, newTestCA(t).issue(time.Hour, "a.example"))
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	os.Remove(f.certFile)
	if err := syscall.Mkfifo(f.certFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.load(); err == nil || !strings.Contains(err.Error(), "cert.pem is not a regular file") {
		t.Errorf("got %v", err)
	}
	if c, err := f.certificate(&tls.ClientHelloInfo{}); c == nil || err != nil {
		t.Errorf("got %v, %v", c, err)
	}
}
