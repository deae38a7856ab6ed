package resolver

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/net/dns/dnsmessage"
)

// textQuery returns a query for a TXT record.
func textQuery(t *testing.T, name string) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET},
		},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// text answers with a TXT record. By UDP the answer is truncated if there are several words.
func text(words ...string) reply {
	return func(network string, query dnsmessage.Message) []dnsmessage.Message {
		m := respond(query, dnsmessage.RCodeSuccess)
		if m.Truncated = network == "udp" && len(words) > 1; !m.Truncated {
			q := query.Questions[0]
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
			m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.TXTResource{TXT: words}}}
		}
		return []dnsmessage.Message{m}
	}
}

// Exchange asks one server after the other until one does not fail, by TCP after a truncated
// answer, and returns the whole answer, even if it is that the name does not exist.
func TestExchange(t *testing.T) {
	for what, c := range map[string]struct {
		first reply // nil: dialling it fails
		want  []string
		code  dnsmessage.RCode
	}{
		"knows":            {first: text("one"), want: []string{"one"}},
		"truncates":        {first: text("one", "two"), want: []string{"one", "two"}},
		"knows no name":    {first: says(dnsmessage.RCodeNameError), code: dnsmessage.RCodeNameError},
		"fails":            {first: says(dnsmessage.RCodeServerFailure), want: []string{"second"}},
		"lacks the opcode": {first: says(dnsmessage.RCodeNotImplemented), want: []string{"second"}},
		"is not there":     {want: []string{"second"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			in := newInternet(map[netip.AddrPort]reply{second: text("second")})
			if c.first != nil {
				in.servers[first] = c.first
			}
			b, err := (&Resolver{Dial: in.dial}).Exchange(t.Context(), textQuery(t, "a.example."), both)
			var m dnsmessage.Message
			if err == nil {
				err = m.Unpack(b)
			}
			if err != nil || m.RCode != c.code {
				t.Fatalf("the first %s: %v, %v", what, m.RCode, err)
			}
			var got []string
			for _, a := range m.Answers {
				got = append(got, a.Body.(*dnsmessage.TXTResource).TXT...)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the first %s: %q, want %q", what, got, c.want)
			}
		})
	}
}

// A malformed query is not sent. If no server can be reached, the error is not IsNotFound.
func TestExchangeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInternet(nil)
		r := &Resolver{Dial: in.dial}
		whole := textQuery(t, "a.example.")
		for n := range len(whole) {
			if _, err := r.Exchange(t.Context(), whole[:n], both); err == nil {
				t.Errorf("the first %d bytes of a query were taken", n)
			}
		}
		if len(in.dials) != 0 {
			t.Errorf("dials: %v", in.dials)
		}
		_, err := r.Exchange(t.Context(), whole, both)
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || dns.IsNotFound {
			t.Errorf("without a server: %v", err)
		}
	})
}
