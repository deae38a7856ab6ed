package programs

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
)

// relayProgram is a relay of either make with its STUN server, running in the hub.
type relayProgram struct {
	name       string
	port, stun uint16
	pin        string // of its certificate
	process    *process
	start      func() *process
}

const pinExpr = `sha256-raw:[0-9a-f]{64}`

// startDerper starts derper, the stock relay.
func startDerper(t *testing.T) *relayProgram {
	dir := t.TempDir()
	return startRelay(t, "derper", func(tcp, udp uint16) *exec.Cmd {
		return exec.Command(binary("derper"), "-a", hubAddr(tcp), "-http-port", "-1", "-stun-port", fmt.Sprint(udp),
			"-certmode", "manual", "-hostname", hub.String(), "-certdir", dir, "-c", filepath.Join(dir, "derper.key"))
	})
}

// startGinnelRelay starts our relay.
func startGinnelRelay(t *testing.T) *relayProgram {
	dir := t.TempDir()
	return startRelay(t, "ginnel relay", func(tcp, udp uint16) *exec.Cmd {
		cmd := exec.Command(binary("ginnel"), "relay", "serve", "--listen", hubAddr(tcp), "--stun", hubAddr(udp),
			"--hostname", hub.String(), "--state", dir)
		cmd.Env = bareEnvironment(dir)
		return cmd
	})
}

func startRelay(t *testing.T, name string, command func(tcp, udp uint16) *exec.Cmd) *relayProgram {
	t.Helper()
	r := &relayProgram{name: name, port: freeTCPPort(t, hub), stun: freeUDPPort(t, hub)}
	r.start = func() *process {
		t.Helper()
		p := start(t, name, command(r.port, r.stun))
		r.pin = p.match(pinExpr)
		eventually(t, name+" listens", func() bool {
			c, err := net.Dial("tcp", hubAddr(r.port))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return p
	}
	r.process = r.start()
	return r
}

// restart stops the relay, calls away, and starts it again with the same key and certificate.
func (r *relayProgram) restart(t *testing.T, away func()) {
	t.Helper()
	before := r.pin
	r.process.stop()
	away()
	r.process = r.start()
	if r.pin != before {
		t.Errorf("%s came back with certificate %s, had %s", r.name, r.pin, before)
	}
}

func hubAddr(port uint16) string { return netip.AddrPortFrom(hub, port).String() }

func freeTCPPort(t *testing.T, at netip.Addr) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func freeUDPPort(t *testing.T, at netip.Addr) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

// bareEnvironment returns the environment of a program: only a search path and its own home
// directory.
func bareEnvironment(home string) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "TMPDIR=" + home}
}
