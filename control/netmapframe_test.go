package control

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// Applying the Frame of a map to nothing gives the same map, at each step of a long stream.
func TestFrameRestoresMap(t *testing.T) {
	now := time.Date(2026, 11, 22, 13, 0, 30, 0, time.UTC)
	var m, none *NetMap
	for _, step := range vectors(t).Deltas.Steps {
		var r, again MapResponse
		if err := json.Unmarshal(step.Response, &r); err != nil {
			t.Fatal(err)
		}
		var err error
		if m, err = m.Apply(&r, now); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(m.Frame(now))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		back, err := none.Apply(&again, now)
		if err != nil {
			t.Fatal(err)
		}
		for name, pair := range map[string][2]any{
			"Self": {back.Self, m.Self}, "Peers": {back.Peers, m.Peers}, "DERPMap": {back.DERPMap, m.DERPMap},
			"DNS": {back.DNS, m.DNS}, "Domain": {back.Domain, m.Domain}, "Users": {back.Users, m.Users},
			"Filter": {back.Filter, m.Filter}, "Filters": {back.Filters, m.Filters}, "ClockSkew": {back.ClockSkew, m.ClockSkew},
		} {
			if got, want := throughJSON(t, pair[0]), throughJSON(t, pair[1]); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s is\n     %v\nwant %v", step.Name, name, got, want)
			}
		}
	}
}
