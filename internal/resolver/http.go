package resolver

import (
	"context"
	"sync"
)

// askHTTP puts the open questions to a server, all at the same time. It returns nil once the server
// has answered something.
func (r *Resolver) askHTTP(ctx context.Context, t turn, l *lookup) error {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	var wg sync.WaitGroup
	var posts []*post
	l.each(open, func(q *question) {
		p := &post{r: r, url: t.server.URL}
		posts = append(posts, p)
		q.id = 0 // so that caches on the way know a question again (RFC 8484, section 4.1)
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

// post is one question on its way.
type post struct {
	r             *Resolver
	url           string
	query, answer []byte
	err           error
}

func (p *post) send(ctx context.Context) { p.answer, p.err = p.r.Post(ctx, p.url, p.query) }

// take settles q if msg answers it, and reports whether it does. There is no other way to ask for
// what was cut short.
func (q *question) take(msg []byte) bool {
	p, h, ok := q.parse(msg)
	switch {
	case ok && h.Truncated:
		q.fail(errLarge)
	case ok:
		q.settle(msg, &p, h)
	}
	return ok
}
