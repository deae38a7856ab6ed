package main

import (
	"fmt"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"
)

// askDNS asks a DNS server and prints the code and the records of its answer: askdns udp|tcp SERVER
// NAME TYPE.
func askDNS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: askdns udp|tcp SERVER NAME TYPE")
	}
	c := dns.Client{Net: args[0]}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(args[2]), dns.StringToType[args[3]]), args[1])
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), dns.RcodeToString[r.Rcode])
	for _, rr := range r.Answer {
		fmt.Fprintln(ts.Stdout(), rr)
	}
}
