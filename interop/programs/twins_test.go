package programs

import (
	"os"
	"strings"
	"testing"
	"time"
)

// How much two processes with one identity may do while they are watched. They do a twentieth of
// it.
const (
	twinsTime  = 6 * time.Second
	twinsCPU   = 2 * time.Second
	twinsLines = 300
)

// TestTwins proves that two processes with one identity, as a copied state directory makes them, do
// not make each other, or a server of either make, busy; that nobody panics; and that the one that
// is left when the other ends is a member.
func TestTwins(t *testing.T) {
	t.Parallel()
	for name, found := range map[string]func(*testing.T) (m *mesh, server *process){
		"our server": func(t *testing.T) (*mesh, *process) {
			relay := startGinnelRelay(t)
			s := startOurServer(t, relay)
			return newMesh(t, s, relay), s.process
		},
		"headscale": func(t *testing.T) (*mesh, *process) {
			relay := startDerper(t)
			s := startHeadscale(t, relay)
			return newMesh(t, s, relay), s.process
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, server := found(t)
			alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
			m.join(alpha, beta)
			address := alpha.address()
			alpha.process.stop()
			twin := newGinnel(t, newHost(t, "alpha"))
			if err := os.CopyFS(twin.state(), os.DirFS(alpha.state())); err != nil {
				t.Fatal(err)
			}
			alpha.up(m.server.url(), "")
			twin.launch(m.server.url(), "")
			twin.process.over = true // it may notice, and end

			all := []*process{alpha.process, twin.process, beta.process, server, m.relay.process}
			watch(t, all)
			if twin.process.running() {
				twin.process.stop()
			}
			m.recovered()
			m.present()
			if got := alpha.address(); got != address {
				t.Errorf("alpha is %s, was %s", got, address)
			}
		})
	}
}

// watch makes sure that programs do little for a while.
func watch(t *testing.T, all []*process) {
	t.Helper()
	type reading struct {
		lines int
		cpu   time.Duration
	}
	read := func(p *process) reading { return reading{strings.Count(p.out.String(), "\n"), p.cpu(t)} }
	var before []reading
	for _, p := range all {
		before = append(before, read(p))
	}
	time.Sleep(twinsTime)
	for i, p := range all {
		after := read(p)
		lines, cpu := after.lines-before[i].lines, after.cpu-before[i].cpu
		t.Logf("%s wrote %d lines and used %v of %v", p.name, lines, cpu, twinsTime)
		if lines > twinsLines || cpu > twinsCPU {
			t.Errorf("%s wrote %d lines and used %v within %v", p.name, lines, cpu, twinsTime)
		}
		if strings.Contains(p.out.String(), "panic: ") {
			t.Errorf("%s panicked", p.name)
		}
	}
}
