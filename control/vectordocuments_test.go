package control

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// documentTypes maps the names of the test vectors to types; nil means that this program does not
// use the document.
var documentTypes = map[string]any{
	"OverTLSPublicKeyResponse": ServerKeys{},
	"RegisterRequest":          RegisterRequest{},
	"RegisterResponse":         RegisterResponse{},
	"MapRequest":               MapRequest{},
	"MapResponse":              MapResponse{},
	"PingResponse":             PingResponse{},
	"DERPAdmitClientRequest":   AdmitRequest{},
	"DERPAdmitClientResponse":  AdmitResponse{},
	"EarlyNoise":               nil,
	"SetDNSRequest":            nil,
	"TokenRequest":             nil,
	"QueryFeatureRequest":      nil,
	"AuditLogRequest":          nil,
}

// ignored lists the fields that this program does not read.
var ignored = map[string]bool{"NLKey": true, "DistroCodeName": true, "GoArchVar": true, "SSHPolicy": true}

func TestVectorDocuments(t *testing.T) {
	for _, d := range vectors(t).Documents {
		zero, known := documentTypes[d.Type]
		if !known {
			t.Errorf("%s: type %s is new", d.Name, d.Type)
		}
		if zero == nil {
			continue
		}
		doc := reflect.New(reflect.TypeOf(zero)).Interface()
		if err := json.Unmarshal(d.JSON, doc); err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		var want, got any
		json.Unmarshal(d.JSON, &want)
		json.Unmarshal(text, &got)
		compareJSON(t, d.Name, want, got)
	}
}

// isZero reports whether a value means the same as an absent field. Empty lists and objects are not
// zero, because some of them have a meaning.
func isZero(v any) bool {
	s, _ := v.(string)
	return v == nil || v == false || v == 0.0 || v == "" || s == "0001-01-01T00:00:00Z" ||
		strings.HasSuffix(s, ":"+strings.Repeat("0", 64))
}

func compareJSON(t *testing.T, path string, want, got any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s: got %v, want an object", path, got)
			return
		}
		for name, w := range want {
			g, ok := got[name]
			if ignored[name] || !ok && isZero(w) {
				continue
			}
			compareJSON(t, path+"."+name, w, g)
		}
		for name, g := range got {
			if _, ok := want[name]; !ok && !isZero(g) {
				t.Errorf("%s.%s: got %v, want nothing", path, name, g)
			}
		}
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
			return
		}
		for i := range want {
			compareJSON(t, fmt.Sprintf("%s[%d]", path, i), want[i], got[i])
		}
	default:
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}
