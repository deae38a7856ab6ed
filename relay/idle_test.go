package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/server"
)

// idleClientsEnv holds a region in JSON. It makes this binary a child process that opens
// idleClients connections to the region.
const (
	idleClientsEnv = "GINNEL_TEST_IDLE_CLIENTS"
	idleClients    = 1000
)

// runIdleClients is the child process: it connects, reports that, and ends when its input ends.
func runIdleClients(region string) int {
	var r relay.Region
	if err := json.Unmarshal([]byte(region), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var clients []*relay.Client
	for range idleClients {
		c, err := relay.DialRegion(context.Background(), &r, relay.ClientConfig{Key: key.NewNodePrivate()})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if _, err := c.Recv(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		clients = append(clients, c)
	}
	fmt.Println("connected")
	io.Copy(io.Discard, os.Stdin)
	for _, c := range clients {
		c.Close()
	}
	return 0
}

// BenchmarkIdleMemory reports the memory of a server for each idle TLS client. The clients are in
// another process.
func BenchmarkIdleMemory(b *testing.B) {
	for b.Loop() {
		heap, stack, resident := measureIdle(b)
		b.ReportMetric(heap, "heap-B/client")
		b.ReportMetric(stack, "stack-B/client")
		b.ReportMetric(resident, "resident-B/client")
	}
}

// measureIdle returns the bytes for each client.
func measureIdle(tb testing.TB) (heap, stack, resident float64) {
	srv := startServer(tb, server.Config{})
	region, err := json.Marshal(srv.region)
	if err != nil {
		tb.Fatal(err)
	}
	before := takeMemory(tb)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), idleClientsEnv+"="+string(region))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		tb.Fatal("clients did not connect: ", err)
	}
	after := takeMemory(tb)
	if n := rawpeer.Metric(tb, srv, "ginnel_relay_connections"); n != idleClients {
		tb.Errorf("%v connections, want %d", n, idleClients)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		tb.Error(err)
	}
	srv.Close()
	per := func(a, b uint64) float64 { return (float64(b) - float64(a)) / idleClients }
	return per(before.heap, after.heap), per(before.stack, after.stack), per(before.resident, after.resident)
}

type memory struct{ heap, stack, resident uint64 }

// takeMemory measures after several garbage collections, which also shrink the stacks.
func takeMemory(tb testing.TB) memory {
	for range 5 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Skip("no /proc to measure resident memory: ", err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return memory{ms.HeapAlloc, ms.StackInuse, pages * uint64(os.Getpagesize())}
}
