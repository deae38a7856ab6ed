package nodecmd

import (
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"ginnel/internal/cli"
	"ginnel/internal/cli/statedir"
)

// The flag --max-associations bounds how many UDP associations the proxy serves. One more is
// refused while the others are too young to be idle.
func TestMaxAssociations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "wg0.conf")
	text := "[Interface]\nPrivateKey = aMGA5P17jkNPBMRRcDmThwBTpTcsPZhxCdu4fNGZ1Fo=\nAddress = 10.9.9.1/32\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, fs := newNodeOptions("127.0.0.1:0"), pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(fs)
	if err := fs.Parse([]string{"--wireguard", file, "--state", statedir.Memory, "--max-associations", "2"}); err != nil {
		t.Fatal(err)
	}
	n, err := o.start(cli.Program{Getenv: os.Getenv, Environ: os.Environ, Stderr: os.Stderr},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	for i, want := range []string{"050000", "050000", "050100"} { // RFC 1928: succeeded, general failure
		c, err := net.Dial("tcp", n.Status().Proxies[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("\x05\x01\x00" + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 5)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(answer[2:]); got != want {
			t.Errorf("association %d: %s, want %s", i+1, got, want)
		}
	}
}
