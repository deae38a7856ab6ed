package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
)

// Environment variables that tell a child process of the tests what to do, and with which file.
const (
	childRole = "GINNEL_STORE_CHILD"
	childFile = "GINNEL_STORE_FILE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childRole) {
	case "":
		os.Exit(m.Run())
	case "write":
		writeForEver(os.Getenv(childFile))
	case "full":
		writeUntilFull(os.Getenv(childFile))
	}
}

func child(t *testing.T, role, file string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childRole+"="+role, childFile+"="+file)
	cmd.Stderr = os.Stderr
	return cmd
}

// writeForEver runs several writers. Each puts a counter and prints the key once Transact has
// acknowledged it.
func writeForEver(file string) {
	b, err := Open(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				if _, err := b.Transact(context.Background(), Txn{Put: []Put{{key, []byte(key)}, {key + "+", nil}}}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				os.Stdout.WriteString(key + "\n")
			}
		})
	}
	wg.Wait()
}

// After SIGKILL every acknowledged transaction is in the file, and no transaction is there in part.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.db")
	var acknowledged []string
	for round := range 5 {
		cmd := child(t, "write", file)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for range 20 + 37*round {
			acknowledged = append(acknowledged, line(t, lines))
		}
		cmd.Process.Kill()
		for rest, err := lines.ReadString('\n'); err == nil; rest, err = lines.ReadString('\n') {
			acknowledged = append(acknowledged, strings.TrimSuffix(rest, "\n"))
		}
		cmd.Wait()
	}
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, key := range acknowledged {
		if e, err := b.Get(t.Context(), key); err != nil || string(e.Value) != key {
			t.Errorf("%s: got %q, %v", key, e.Value, err)
		}
	}
	list, _, err := b.List(t.Context(), "")
	if err != nil || len(list)%2 != 0 || len(list) < 2*len(acknowledged) {
		t.Errorf("%d entries, %v, after %d acknowledged pairs", len(list), err, len(acknowledged))
	}
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(s, "\n")
}

// Opening a file that another process has open fails with ErrLocked.
func TestLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.db")
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want ErrLocked with the file's name", err)
	}
	b.Close()
	if b, err = Open(file); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	b.Close()
}

// Transactions that arrive during a write share the next one.
func TestGroupCommit(t *testing.T) {
	b := openBolt(t)
	const writers = 200
	before := writes(t, b)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if _, err := b.Transact(t.Context(), Txn{Put: []Put{{strconv.Itoa(i), nil}}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := writes(t, b) - before; n > writers/4 {
		t.Errorf("%d writes to the disk for %d transactions", n, writers)
	}
}

func writes(t *testing.T, b *Bolt) (n int) {
	t.Helper()
	if err := b.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNotAStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error with the file's name", err)
	}
}

// On a full disk Transact returns an error and the entries stay. Once there is space again, writing
// works again.
func TestFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.db")
	cmd := child(t, "full", file)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	acknowledged, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	list, _, err := b.List(t.Context(), "")
	if err != nil || acknowledged == 0 || len(list) < acknowledged {
		t.Errorf("%d entries, %v, after %d that were acknowledged", len(list), err, acknowledged)
	}
	put(t, b, "a", "1")
}

// writeUntilFull writes until that fails, tries once more, and prints how many writes were
// acknowledged.
func writeUntilFull(file string) {
	b, err := Open(file)
	if err == nil {
		err = limitFileSize(1 << 20)
	}
	n := 0
	for err == nil && n < 1000 {
		if _, err = b.Transact(context.Background(), Txn{Put: []Put{{strconv.Itoa(n), make([]byte, 8<<10)}}}); err == nil {
			n++
		}
	}
	if n == 0 || n == 1000 {
		fmt.Fprintln(os.Stderr, "no limit met:", n, err)
		os.Exit(1)
	}
	if _, err := b.Get(context.Background(), "0"); err != nil {
		fmt.Fprintln(os.Stderr, "reading on a full disk:", err)
		os.Exit(1)
	}
	if err := b.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	io.WriteString(os.Stdout, strconv.Itoa(n))
}

func BenchmarkTransact(b *testing.B) {
	for _, writers := range []int{1, 100} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openBolt(b)
			b.SetParallelism(writers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Transact(context.Background(), Txn{Put: []Put{{"nodes/1", make([]byte, 500)}}}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
