package derpload

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"ginnel/key"
	"ginnel/relay"
)

// parallelLogins is how many clients log in at the same time.
const parallelLogins = 16

// client is a relay client with its public key.
type client struct {
	*relay.Client
	key key.NodePublic
}

// handler is called for each message to a client, on the goroutine that reads for it.
type handler func(number int, c *client, m relay.Message) error

func nothing(int, *client, relay.Message) error { return nil }

// group is a number of clients of one server.
type group struct {
	region  *relay.Region
	handle  handler
	clients []*client
	next    atomic.Int64
	closing atomic.Bool
	wg      sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

// connect logs n clients in and starts to read for each.
func connect(ctx context.Context, region *relay.Region, n int, handle handler) (*group, error) {
	p := &group{region: region, handle: handle, clients: make([]*client, n)}
	var wg sync.WaitGroup
	for range min(parallelLogins, n) {
		wg.Go(func() { p.login(ctx) })
	}
	wg.Wait()
	if err := p.broken(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// login connects clients, one after the other, until all are taken.
func (p *group) login(ctx context.Context) {
	for p.broken() == nil {
		i := int(p.next.Add(1)) - 1
		if i >= len(p.clients) {
			return
		}
		private := key.NewNodePrivate()
		c, err := relay.DialRegion(ctx, p.region, relay.ClientConfig{Key: private})
		if err != nil {
			p.note(fmt.Errorf("connecting client %d: %w", i+1, err))
			return
		}
		own := &client{c, private.Public()}
		p.clients[i] = own
		p.wg.Go(func() { p.read(i, own) })
	}
}

func (p *group) read(number int, c *client) {
	for {
		msgs, err := c.Recv()
		if err != nil {
			p.note(fmt.Errorf("reading for client %d: %w", number+1, err))
			return
		}
		for _, m := range msgs {
			if err := p.handle(number, c, m); err != nil {
				p.note(err)
				return
			}
		}
	}
}

// note keeps the first error, except for those after close.
func (p *group) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && !p.closing.Load() {
		p.err = err
	}
}

// broken returns the first error.
func (p *group) broken() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *group) close() {
	p.closing.Store(true)
	for _, c := range p.clients {
		if c != nil {
			c.Close()
		}
	}
	p.wg.Wait()
}
