package relay

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// mapJSON has every member of section 9 as the reference implementation writes it.
const mapJSON = `{
	"HomeParams": {"RegionScore": {"1": 0.5, "900": 2}},
	"Regions": {
		"1": {
			"RegionID": 1, "RegionCode": "nyc", "RegionName": "New York City",
			"Latitude": 40.7, "Longitude": -74, "Avoid": true, "NoMeasureNoHome": true,
			"Nodes": [
				{"Name": "1a", "RegionID": 1, "HostName": "derp1a.example", "CertName": "front.example",
				 "IPv4": "192.0.2.1", "IPv6": "2001:db8::1", "STUNPort": -1, "STUNOnly": true, "DERPPort": 8443,
				 "InsecureForTests": true, "STUNTestIP": "192.0.2.9", "CanPort80": true},
				{"Name": "1b", "RegionID": 1, "HostName": "derp1b.example", "IPv4": "none"}
			]
		},
		"900": {"RegionID": 900, "RegionCode": "", "RegionName": "", "Nodes": null}
	},
	"omitDefaultRegions": true
}`

// parseMap reads and validates a map.
func parseMap(text []byte) (*Map, error) {
	m := new(Map)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	return m, m.Validate()
}

func TestMapJSON(t *testing.T) {
	m, err := parseMap([]byte(mapJSON))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(mapJSON)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got  %s\nwant %s", got, &want)
	}
	if got, _ := json.Marshal(Map{}); string(got) != `{"Regions":null}` {
		t.Errorf("empty map: %s", got)
	}
	if n := m.Regions[1].Nodes[0]; n.port() != 8443 {
		t.Errorf("node %+v: port %d", n, n.port())
	}
	if ts := nodeTargets(m.Regions[1]); len(ts) != 1 || ts[0].url().String() != "https://derp1b.example/derp" {
		t.Errorf("targets %+v", ts)
	}
	if m, err := parseMap([]byte(`{"Strange":1}`)); err != nil || len(m.Regions) != 0 {
		t.Errorf("unknown field: got %v, %v", m, err)
	}
}

// Validate reports all problems at once, each with its place.
func TestMapValidate(t *testing.T) {
	node := `{"Name":"%","RegionID":1,"HostName":"h"}`
	for text, want := range map[string][]string{
		`{"Regions":{"1":{"RegionID":2}}}`:                            {"region 1 has RegionID 2"},
		`{"Regions":{"0":{"RegionID":0},"65536":{"RegionID":65536}}}`: {"region 0 has", "region 65536 has"},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[null]}}}`:             {"region 1: node 0 is null"},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[` + node + `,` + node +
			`]}}}`: {`node name "%" is used in region 1 too`},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"RegionID":1,"HostName":"h"}]}}}`:                             {"Name is missing"},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a","RegionID":2,"HostName":"h"}]}}}`:                  {`node "a": RegionID is 2`},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a","RegionID":1,"HostName":"a/b"}]}}}`:                {`HostName "a/b"`},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a","RegionID":1,"HostName":"a\u001bb"}]}}}`:           {`HostName "a\x1bb"`},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a\r\nX: y","RegionID":1,"HostName":"h"}]}}}`:          {`node "a\r\nX: y": the Name has`},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a","RegionID":1,"HostName":"h","DERPPort":70000}]}}}`: {"DERPPort 70000"},
		`{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"a","RegionID":1,"HostName":"h","CertName":"sha256-raw:ABC"}]}}}`: {
			`CertName "sha256-raw:ABC"`},
		`{"Regions":{"7":null}}`: {"region 7 is null"},
	} {
		_, err := parseMap([]byte(text))
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got error %v, want %q in it", text, err, part)
			}
		}
	}
}

func TestHostPort(t *testing.T) {
	for _, c := range []struct {
		host string
		port int
		want string
	}{
		{"h", 443, "h"}, {"h", 444, "h:444"}, {"192.0.2.1", 443, "192.0.2.1"}, {"2001:db8::1", 443, "[2001:db8::1]"},
		{"2001:db8::1", 8443, "[2001:db8::1]:8443"},
	} {
		if got := hostPort(c.host, c.port, defaultPort); got != c.want {
			t.Errorf("hostPort(%q, %d) = %q, want %q", c.host, c.port, got, c.want)
		}
	}
}

// FuzzMap checks that a map that parses is valid and survives a round trip.
func FuzzMap(f *testing.F) {
	f.Add([]byte(mapJSON))
	f.Add([]byte(`{"Regions":{"1":null,"2":{"RegionID":2}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMap(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%s parses but does not encode: %v", b, err)
		}
		again, err := parseMap(text)
		if err != nil {
			t.Fatalf("%s parses, but not again as %s: %v", b, text, err)
		}
		if text2, _ := json.Marshal(again); !bytes.Equal(text, text2) {
			t.Errorf("%s becomes %s", text, text2)
		}
		for _, r := range m.Regions {
			for _, target := range nodeTargets(r) {
				target.routes()
				target.url()
			}
		}
	})
}
