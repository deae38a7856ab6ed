package programs

import (
	"os"
	"strings"
	"testing"
	"time"
)

// Limits on each process during duplicateTime. Two processes with one identity use about a
// twentieth of them.
const (
	duplicateTime  = 6 * time.Second
	duplicateCPU   = 2 * time.Second
	duplicateLines = 300
)

// TestDuplicateIdentity proves what happens with two processes of one identity, as from a copied
// state directory. They keep neither each other nor a server of either make busy, nothing panics,
// and when one ends the other is a member.
func TestDuplicateIdentity(t *testing.T) {
	t.Parallel()
	for name, create := range map[string]func(*testing.T) (m *mesh, server *process){
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
			m, server := create(t)
			alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
			m.join(alpha, beta)
			address := alpha.address()
			alpha.process.stop()
			duplicate := newGinnel(t, newHost(t, "alpha"))
			if err := os.CopyFS(duplicate.state(), os.DirFS(alpha.state())); err != nil {
				t.Fatal(err)
			}
			alpha.up(m.server.url(), "")
			duplicate.launch(m.server.url(), "")
			duplicate.process.endExpected = true // it may notice the other process and end

			all := []*process{alpha.process, duplicate.process, beta.process, server, m.relay.process}
			watch(t, all)
			if duplicate.process.running() {
				duplicate.process.stop()
			}
			m.awaitRecovery()
			m.awaitConnected()
			if got := alpha.address(); got != address {
				t.Errorf("alpha is %s, was %s", got, address)
			}
		})
	}
}

// watch checks that the programs use little processor time and write few lines for a while.
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
	time.Sleep(duplicateTime)
	for i, p := range all {
		after := read(p)
		lines, cpu := after.lines-before[i].lines, after.cpu-before[i].cpu
		t.Logf("%s wrote %d lines and used %v of %v", p.name, lines, cpu, duplicateTime)
		if lines > duplicateLines || cpu > duplicateCPU {
			t.Errorf("%s wrote %d lines and used %v within %v", p.name, lines, cpu, duplicateTime)
		}
		if strings.Contains(p.out.String(), "panic: ") {
			t.Errorf("%s panicked", p.name)
		}
	}
}
