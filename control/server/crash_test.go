package server

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ginnel/control"
	"ginnel/control/store"
	"ginnel/key"
)

// crashStore is the environment variable with the store file of the crash test's child process.
const crashStore = "GINNEL_CONTROL_CRASH_STORE"

func TestMain(m *testing.M) {
	if file := os.Getenv(crashStore); file != "" {
		joinUntilKilled(file)
	}
	os.Exit(m.Run())
}

var kills = flag.Int("kills", 4, "how often the crash test kills its server")

// joinUntilKilled creates pre-auth keys and registers nodes with them. It prints the server's key
// and, once acknowledged, each pre-auth key and node.
func joinUntilKilled(file string) {
	st, err := store.Open(file)
	exitOn(err)
	s, err := New(Config{Store: st, URL: testURL, BaseDomain: "net.test"})
	exitOn(err)
	ctx := context.Background()
	if _, err := s.CreateUser(ctx, "alice", ""); err != nil && statusOf(err) != 409 {
		exitOn(err)
	}
	fmt.Println("server", s.PublicKey())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				k, err := s.CreateAuthKey(ctx, AuthKeyRequest{User: "alice"})
				exitOn(err)
				fmt.Println("key", k.ID, k.Key)
				printJoin(ctx, s.core, k.Key)
			}
		})
	}
	wg.Wait()
}

func printJoin(ctx context.Context, c *core, authKey string) {
	r := &registration{machine: key.NewMachinePrivate().Public(), req: &control.RegisterRequest{
		Version: control.CapabilityVersion, NodeKey: key.NewNodePrivate().Public(),
		Auth: &control.RegisterAuth{AuthKey: authKey},
	}}
	var line string
	exitOn(c.change(ctx, func(t *tx) error {
		err := c.register(t, r)
		if n := t.nodeByKey(r.req.NodeKey); n != nil {
			line = fmt.Sprintln("node", n.rec.ID, n.rec.Key, n.rec.V4, n.rec.V6, n.rec.Label, authKey)
		}
		return err
	}))
	os.Stdout.WriteString(line)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// After SIGKILL at any moment, every acknowledged key and node exists, the server key is the same,
// and no ID, address or name is assigned twice.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.db")
	var lines []string
	for round := range *kills {
		lines = append(lines, runUntilKilled(t, file, 30+41*(round%5))...)
	}
	st, err := store.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s, err := New(Config{Store: st, URL: testURL, BaseDomain: "net.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	given := make(map[string]string)
	for _, l := range lines {
		checkAcknowledged(t, s, strings.Fields(l), given)
	}
	if len(given) == 0 {
		t.Error("no node was registered")
	}
	if n := len(s.core.latest.Load().nodes); 5*n < len(given) {
		t.Errorf("%d nodes for %d acknowledged IDs, addresses and names", n, len(given))
	}
}

// runUntilKilled returns the lines that the child printed before it was killed.
func runUntilKilled(t *testing.T, file string, after int) (lines []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashStore+"="+file)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			break
		}
		if lines = append(lines, line); len(lines) == after {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	if len(lines) < after {
		t.Fatalf("the child exited after %d lines", len(lines))
	}
	return lines
}

// checkAcknowledged compares one line of the child with the server. given maps each ID, address and
// name so far to its node.
func checkAcknowledged(t *testing.T, s *Server, f []string, given map[string]string) {
	t.Helper()
	switch f[0] {
	case "server":
		if f[1] != s.PublicKey().String() {
			t.Errorf("server key: got %[2]s, want %[1]s", f[1], s.PublicKey())
		}
	case "key":
		if s.core.st.byHash[hashSecret(f[2])] == 0 {
			t.Errorf("key %s is lost", f[1])
		}
	case "node":
		k, err := key.ParseNodePublic(f[2])
		n := s.core.st.nodeByKey(k)
		if err != nil || n == nil {
			t.Errorf("node %s is lost", f[1])
			return
		}
		want := strings.Join([]string{f[1], f[3], f[4], f[5]}, " ")
		if got := fmt.Sprintf("%d %s %s %s", n.rec.ID, n.rec.V4, n.rec.V6, n.rec.Label); got != want {
			t.Errorf("node is %s, want %s", got, want)
		}
		for _, mark := range []string{"id " + f[1], f[3], f[4], "name " + f[5]} {
			if given[mark] != "" {
				t.Errorf("%s was assigned to %s and %s", mark, given[mark], f[2])
			}
			given[mark] = f[2]
		}
		if used := s.core.st.keys[s.core.st.byHash[hashSecret(f[6])]]; used == nil || used.Used.IsZero() {
			t.Errorf("the one-off key of node %s can be used again", f[1])
		}
	}
}
