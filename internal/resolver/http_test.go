package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const dohURL = "https://dns.example/dns-query"

// post returns a Resolver.Post that returns the answers of answer after delay.
func (i *internet) post(answer reply, delay time.Duration) func(context.Context, string, []byte) ([]byte, error) {
	return func(ctx context.Context, url string, b []byte) ([]byte, error) {
		var query dnsmessage.Message
		if err := query.Unpack(b); err != nil || url != dohURL || query.ID != 0 {
			return nil, errors.New("400 Bad Request")
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		answers := answer("http", query)
		if len(answers) == 0 {
			return nil, errors.New("502 Bad Gateway")
		}
		return answers[0].Pack()
	}
}

// A server with a URL is asked in its place in the order, both questions at the same time, and its
// answer is final. If it fails or does not answer, the next one is asked.
func TestHTTP(t *testing.T) {
	names := knows(map[string][]netip.Addr{"db.example": {six, four}})
	cut := func(_ string, query dnsmessage.Message) []dnsmessage.Message {
		m := respond(query, dnsmessage.RCodeSuccess)
		m.Truncated = true
		return []dnsmessage.Message{m}
	}
	other := netip.MustParseAddr("10.0.0.2")
	for what, c := range map[string]struct {
		answer  reply
		delay   time.Duration
		name    string
		want    []netip.Addr // nil: the name does not exist
		took    time.Duration
		outages int
	}{
		"knows":         {names, time.Second, "db.example", []netip.Addr{six, four}, time.Second, 0},
		"knows no name": {names, 0, "nowhere.example", nil, 0, 0},
		"fails":         {silent, 0, "db.example", []netip.Addr{other}, 0, 0},
		"is refused":    {says(dnsmessage.RCodeRefused), 0, "db.example", []netip.Addr{other}, 0, 0},
		"truncates":     {cut, 0, "db.example", []netip.Addr{other}, 0, 0},
		"is silent":     {names, time.Hour, "db.example", []netip.Addr{other}, Timeout, 1},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newInternet(map[netip.AddrPort]reply{second: knows(map[string][]netip.Addr{"db.example": {other}})})
				r := &Resolver{Dial: in.dial, Post: in.post(c.answer, c.delay)}
				addrs, err, took := look(t, r, c.name, Server{URL: dohURL}, both[1])
				missing := err != nil && err.IsNotFound && err.Server == dohURL
				if !slices.Equal(addrs, c.want) || missing != (c.want == nil) || took != c.took || len(r.outages.of) != c.outages {
					t.Errorf("got %v, %v after %v and %d outages; want %v after %v and %d",
						addrs, err, took, len(r.outages.of), c.want, c.took, c.outages)
				}
			})
		})
	}
}

// Exchange works by HTTP too.
func TestExchangeHTTP(t *testing.T) {
	in := newInternet(nil)
	r := &Resolver{Post: in.post(text("one", "two"), 0)}
	b, err := r.Exchange(t.Context(), textQuery(t, "a.example."), []Server{{URL: dohURL}})
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil || len(m.Answers) != 1 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if got := m.Answers[0].Body.(*dnsmessage.TXTResource).TXT; !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
}
