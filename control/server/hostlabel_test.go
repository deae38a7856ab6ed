package server

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestHostLabelVectors(t *testing.T) {
	text, err := os.ReadFile("../testdata/control.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Labels []struct{ Hostname, Label string } `json:"hostname_labels"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors.Labels) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors.Labels), err)
	}
	for _, v := range vectors.Labels {
		if got := hostLabel(v.Hostname); got != v.Label {
			t.Errorf("%q: got %q, want %q", v.Hostname, got, v.Label)
		}
	}
}

// "Empty → node; on collision append -1, -2, …" (7.3), and never more than 63 bytes.
func TestUniqueLabel(t *testing.T) {
	long := strings.Repeat("x", maxLabel)
	taken := map[string]bool{"a": true, "a-1": true, "node": true, long: true}
	for host, want := range map[string]string{
		"b": "b", "A": "a-2", "日本": "node-1", long + "yyy": long[:maxLabel-2] + "-1",
	} {
		if got := uniqueLabel(host, func(l string) bool { return taken[l] }); got != want || len(got) > maxLabel {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}

// Every host name results in a label that an administrator could have chosen.
func FuzzHostLabel(f *testing.F) {
	f.Add("Node_A.local")
	f.Add("-\xff.lan")
	f.Fuzz(func(t *testing.T, hostname string) {
		label := uniqueLabel(hostname, func(string) bool { return false })
		if len(label) == 0 || len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("%q became %q", hostname, label)
		}
	})
}
