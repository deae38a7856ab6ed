package server

import "sync"

// drain counts requests so that Close can wait for them. The zero value accepts requests.
type drain struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// enter reports whether the request may proceed. If so, the caller must call leave at its end.
func (d *drain) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.wg.Add(1)
	}
	return !d.closed
}

func (d *drain) leave() { d.wg.Done() }

// close refuses further requests and waits for the current ones.
func (d *drain) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.wg.Wait()
}
