package tuning

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// echo returns a connection whose other end sends back what comes.
func echo(t testing.TB) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(other, other) })
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
		other.Close()
	})
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func trip(t testing.TB, c net.Conn) {
	var b [64]byte
	if _, err := c.Write(b[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
}

// runningSpinner returns a spinner that may spin, with one P and the network of the system.
func runningSpinner(t testing.TB) *spinner {
	needMeasurable(t)
	k, err := newNetpoller()
	if err != nil {
		t.Fatal(err)
	}
	procs := runtime.GOMAXPROCS(1)
	s, stopc := newSpinner(), make(chan struct{})
	s.allow()
	var wg sync.WaitGroup
	wg.Go(func() { s.run(k, stopc) })
	t.Cleanup(func() {
		close(stopc)
		wg.Wait()
		k.close()
		runtime.GOMAXPROCS(procs)
	})
	return s
}

// While a spinner spins, connections are served as ever. When no packet passes it sleeps.
func TestSpinnerServes(t *testing.T) {
	s, c := runningSpinner(t), echo(t)
	deadline := time.Now().Add(time.Minute)
	for n := 0; n < 1000 || s.spentTime() == 0; n++ {
		if time.Now().After(deadline) {
			t.Fatalf("has not polled in %d round trips", n)
		}
		s.dialogue()
		s.dialogue()
		trip(t, c)
	}
	for !s.asleep.Load() {
		if time.Now().After(deadline) {
			t.Fatal("spins without end")
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkDialogue is what a batch of packets costs.
func BenchmarkDialogue(b *testing.B) {
	for name, set := range map[string]func(*spinner){"allowed": (*spinner).allow, "forbidden": (*spinner).forbid} {
		b.Run(name, func(b *testing.B) {
			s := newSpinner()
			set(s)
			for b.Loop() {
				s.dialogue()
			}
		})
	}
}

// BenchmarkSpin is one turn of spinning: a yield and a poll.
func BenchmarkSpin(b *testing.B) {
	needMeasurable(b)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	k, err := newNetpoller()
	if err != nil {
		b.Fatal(err)
	}
	defer k.close()
	for b.Loop() {
		k.yield()
		k.poll()
	}
}
