package configs

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// The example file is valid.
func TestExampleDNS(t *testing.T) {
	b, err := Examples.ReadFile("examples/dns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDNS("dns.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	want := DNS{
		Nameservers: []string{"192.0.2.53", "https://dns.example.net/dns-query"},
		Fallback:    []string{"192.0.2.54"},
		Split: map[string][]string{
			"corp.example.com": {"100.64.0.53", "100.64.0.54"},
			"10.in-addr.arpa":  {"100.64.0.53"},
		},
		Search: []string{"corp.example.com"},
		Records: []DNSRecord{
			{"grafana.mesh.example.com", netip.MustParseAddr("100.64.0.7")},
			{"grafana.mesh.example.com", netip.MustParseAddr("fd7a:115c:a1e0::7")},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestParseDNS(t *testing.T) {
	for file, want := range map[string]DNS{
		"":                                 {},
		"nameservers: []":                  {},
		"nameservers: '192.0.2.1:5353'":    {Nameservers: []string{"192.0.2.1:5353"}},
		"nameservers: ['[2001:db8::1]:1']": {Nameservers: []string{"[2001:db8::1]:1"}},
		"split: {Corp.Example.: []}":       {Split: map[string][]string{"corp.example": nil}},
		"records: [{name: a, value: 192.0.2.1, type: A}]": {
			Records: []DNSRecord{{"a", netip.MustParseAddr("192.0.2.1")}}},
	} {
		if got, err := ParseDNS("dns.yaml", []byte(file)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n got %+v, %v\nwant %+v", file, got, err, want)
		}
	}
}

// Every mistake is reported with its place and the wanted form.
func TestDNSMistakes(t *testing.T) {
	for file, want := range map[string]string{
		"nameserver: 192.0.2.1":                       "dns.yaml:1:1: \"nameserver\": is not a known key",
		"name-servers: 192.0.2.1":                     "did you mean \"nameservers\"?",
		"search-domains:\n  - a..b":                   "dns.yaml:2:5: search-domains: host \"a..b\" is neither an address nor a name",
		"nameservers:\n  - dns.example":               "dns.yaml:2:5: nameservers: \"dns.example\" is neither an IP address, one with a port, nor an https:// URL",
		"nameservers: 'fe80::1%eth0'":                 "is neither",
		"nameservers: '0.0.0.0'":                      "is neither",
		"nameservers: https://user@dns.example":       "is neither",
		"split: 192.0.2.1":                            "dns.yaml:1:1: split: is not a mapping of domains",
		"split:\n  a.example: x":                      "dns.yaml:2:14: split.a.example: \"x\" is neither",
		"split:\n  a: []\n  a: []":                    "dns.yaml:3:3: a: is given a second time, the first is on line 2",
		"records: x":                                  "records: is not a list",
		"records: [x]":                                "dns.yaml:1:11: records: is not a mapping",
		"records: [{name: a}]":                        "records: value is missing",
		"records: [{name: a, value: b}]":              "records.value: \"b\" is not an IP address",
		"records: [{name: a, value: '::1', type: A}]": "records.type: \"A\" is not the type of ::1, which is AAAA",
		"records: [{name: a, ttl: 5}]":                "\"ttl\": is not a known key",
	} {
		if _, err := ParseDNS("dns.yaml", []byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", file, err, want)
		}
	}
}
