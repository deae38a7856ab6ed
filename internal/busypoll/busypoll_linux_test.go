package busypoll

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

// running returns a Poller that may look, with one P.
func running(t testing.TB) *Poller {
	procs := runtime.GOMAXPROCS(1)
	p, stopc := New(), make(chan struct{})
	p.Allow(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(stopc); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		close(stopc)
		wg.Wait()
		runtime.GOMAXPROCS(procs)
	})
	return p
}

// While a Poller looks, connections are served as ever; when nothing comes it sleeps.
func TestPollerServes(t *testing.T) {
	p, c := running(t), echo(t)
	deadline := time.Now().Add(time.Minute)
	for n := 0; n < 1000 || p.Spent() == 0; n++ {
		if time.Now().After(deadline) {
			t.Fatalf("never looked in %d round trips", n)
		}
		p.Active(true)
		p.Active(true)
		trip(t, c)
	}
	for !p.asleep.Load() {
		if time.Now().After(deadline) {
			t.Fatal("looks for ever")
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkActive is what a batch of packets pays.
func BenchmarkActive(b *testing.B) {
	for name, allowed := range map[string]bool{"allowed": true, "not": false} {
		b.Run(name, func(b *testing.B) {
			p := New()
			p.Allow(allowed)
			for b.Loop() {
				p.Active(true)
			}
		})
	}
}

// BenchmarkLook is one time around: a yield, and a question to the kernel.
func BenchmarkLook(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	sys, err := newSystem()
	if err != nil {
		b.Fatal(err)
	}
	defer sys.close()
	for b.Loop() {
		sys.yield()
		sys.await()
	}
}
