package resolver

import (
	"context"
	"sync"
)

// askHTTP asks the open questions by HTTP, at the same time. It returns nil if the server has
// answered any of them.
func (r *Resolver) askHTTP(ctx context.Context, t attempt, l *lookup) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var wg sync.WaitGroup
	var posts []*post
	l.each(open, func(q *question) {
		p := &post{r: r, url: t.server.URL}
		posts = append(posts, p)
		q.id = 0 // so that HTTP caches see equal queries (RFC 8484, section 4.1)
		if p.query, p.err = q.pack(ednsOn); p.err == nil {
			wg.Go(func() { p.send(ctx) })
		}
	})
	wg.Wait()
	var failure error
	answers := 0
	for _, p := range posts {
		if p.err != nil {
			failure = p.err
			continue
		}
		l.each(open, func(q *question) {
			if q.take(p.answer) {
				answers++
			}
		})
	}
	if answers > 0 {
		return nil
	}
	return failure
}

// post is one query by HTTP.
type post struct {
	r             *Resolver
	url           string
	query, answer []byte
	err           error
}

func (p *post) send(ctx context.Context) { p.answer, p.err = p.r.Post(ctx, p.url, p.query) }

// take settles q if msg answers it, and reports whether it does. It is for transports without a
// size limit, so a truncated answer is a failure.
func (q *question) take(msg []byte) bool {
	p, h, ok := q.parse(msg)
	switch {
	case ok && h.Truncated:
		q.fail(errTruncated)
	case ok:
		q.settle(msg, &p, h)
	}
	return ok
}
