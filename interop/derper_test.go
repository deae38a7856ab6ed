package interop

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// derper is the program derper in its own process.
type derper struct {
	cmd   *exec.Cmd
	donec chan struct{}
}

func (d *derper) close() {
	d.cmd.Process.Kill()
	<-d.donec
}

// buildDerper builds the program at the version that this module requires.
func buildDerper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "derper")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path,
		"tailscale.com/cmd/derper").CombinedOutput(); err != nil {
		t.Fatalf("building derper: %v\n%s", err, out)
	}
	return path
}

// startDerper runs the program until the test ends, with a self-signed certificate for loopback,
// and meshed with another relay whose certificate it trusts. Its key file is one that our relay
// made.
func startDerper(t *testing.T, mesh relay.MeshKey, with *relayHost) *relayHost {
	t.Helper()
	dir := t.TempDir()
	k, err := relayserver.LoadKey(filepath.Join(dir, "derper.key"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "mesh.key"), []byte(meshKeyText(mesh)+"\n"))
	writeFile(t, filepath.Join(dir, "roots.pem"),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: with.base.Certificates[0].Certificate[0]}))
	h := &relayHost{name: "derper", host: "127.0.0.1", public: k.Public(), roots: x509.NewCertPool(),
		stun: int(freeUDPPort(t))}
	f := &front{mode: fastStart, addr: freeTCPAddr(t)}
	h.fronts = map[upgradeMode]*front{fastStart: f}
	d := &derper{donec: make(chan struct{})}
	d.cmd = exec.CommandContext(t.Context(), buildDerper(t),
		"-a", f.addr.String(), "-http-port", "-1", "-stun-port", fmt.Sprint(h.stun),
		"-certmode", "manual", "-hostname", h.host, "-certdir", dir, "-c", filepath.Join(dir, "derper.key"),
		"-mesh-psk-file", filepath.Join(dir, "mesh.key"), "-mesh-with", with.fronts[fastStart].addr.String())
	d.cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(dir, "roots.pem"), "SSL_CERT_DIR="+dir)
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	h.pin = d.readPin(t, stderr)
	b, err := os.ReadFile(filepath.Join(dir, h.host+".crt"))
	if err != nil || !h.roots.AppendCertsFromPEM(b) {
		t.Fatalf("reading derper's certificate: %v", err)
	}
	eventually(t, "derper listens", func() bool {
		c, err := net.Dial("tcp", f.addr.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return h
}

var pinned = regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`)

// readPin reads derper's output until it contains the pin of the certificate, and then keeps
// draining it.
func (d *derper) readPin(t *testing.T, r io.Reader) string {
	t.Helper()
	pinc := make(chan string, 1)
	go func() {
		defer close(d.donec)
		var all strings.Builder
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			all.WriteString(lines.Text() + "\n")
			if pin := pinned.FindString(lines.Text()); pin != "" {
				pinc <- pin
				break
			}
		}
		io.Copy(&all, r)
		fmt.Fprintf(t.Output(), "derper: %v\n%s", d.cmd.Wait(), all.String())
		close(pinc)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	select {
	case pin := <-pinc:
		if pin == "" {
			t.Fatal("derper ended")
		}
		return pin
	case <-ctx.Done():
		t.Fatal("derper printed no pin")
	}
	return ""
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func freeTCPAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// TestDerper proves that our relay and clients work with the program derper as it is installed. It
// runs with a key file that we made, our clients accept its certificate by the pin that it prints,
// its STUN service returns our address, and it forms a mesh with our relay in both directions.
func TestDerper(t *testing.T) {
	t.Parallel()
	mesh := newMeshKey()
	our := startOurRelay(t, relayserver.Config{MeshKey: mesh})
	their := startDerper(t, mesh, our)
	meshOurs(t, our, their)

	p := joinPool(t, their.derpMap(fastStart), key.NewNodePrivate())
	exchange(t, p, theirs.join(t, their, fastStart), 500, 1240)
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := c.LocalAddr().(*net.UDPAddr).AddrPort()
	if got := askSTUN(t, c, netip.AddrPortFrom(loopbacks[0], uint16(their.stun))); got != want {
		t.Errorf("STUN: mapped to %v, want %v", got, want)
	}
	other := ours.join(t, our, fastStart)
	awaitDelivery(t, other, p)
	awaitDelivery(t, p, other)
	exchange(t, p, other, 500, 1240)
	other.leave()
	testNotHere(t, ours.join(t, their, fastStart))
}
