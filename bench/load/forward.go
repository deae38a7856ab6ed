package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Forward forwards TCP connections from one address to another until the context ends, with CUBIC
// on both sides. It is the minimum that a relay has to do: the kernel splices one connection to the
// other. Forward writes ready to out once it listens.
func Forward(ctx context.Context, listen, to, ready string, out io.Writer) error {
	cfg := net.ListenConfig{Control: CUBIC.Control}
	ln, err := cfg.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	fmt.Fprintln(out, ready)
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { forward(ctx, c.(*net.TCPConn), to) })
	}
}

// forward connects near to a new connection and copies both directions.
func forward(ctx context.Context, near *net.TCPConn, to string) {
	defer near.Close()
	d := net.Dialer{Control: CUBIC.Control}
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return // the client sees that near is closed
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { pass(far, near) })
	pass(near, far)
}

// pass copies one direction and its end of stream.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close() // ends the other direction
		from.Close()
		return
	}
	to.CloseWrite()
}
