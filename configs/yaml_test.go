package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// upKeys are some keys of "ginnel up" with their kinds.
var upKeys = map[string]Kind{
	"wireguard": Scalar, "state": Scalar, "proxy": List, "proxy-auth": Scalar, "forward": List, "serve": List,
	"dns": Scalar, "mesh-only": Scalar, "dial-timeout": Scalar, "udp-port": Scalar, "memory": Scalar,
	"log-level": Scalar, "log-format": Scalar, "log-connections": Scalar,
}

func TestParse(t *testing.T) {
	got, err := Parse("up.yaml", []byte("\ufeff%YAML 1.2\r\n---\r\n# comment\r\nwireguard: wg0.conf # comment\r\n"+
		"\"state\": 'it''s'\r\nudp-port: 007\r\nmesh-only: true\r\nproxy: :1080\r\nproxy-auth: \"a:b#\\\"d\"\r\n"+
		"forward:\r\n  - 8080:db:5432\r\n  - \"[::1]:80:é:90\"\r\nserve: [80=8080, 0x10, 1.10]\r\nlog-level: >-\r\n  info\r\n"), upKeys)
	if err != nil {
		t.Fatal(err)
	}
	at := func(line, column int) Position { return Position{"up.yaml", line, column} }
	want := []Setting{
		{"wireguard", at(4, 1), []Value{{"wg0.conf", at(4, 12)}}},
		{"state", at(5, 1), []Value{{"it's", at(5, 10)}}},
		{"udp-port", at(6, 1), []Value{{"007", at(6, 11)}}},
		{"mesh-only", at(7, 1), []Value{{"true", at(7, 12)}}},
		{"proxy", at(8, 1), []Value{{":1080", at(8, 8)}}},
		{"proxy-auth", at(9, 1), []Value{{`a:b#"d`, at(9, 13)}}},
		{"forward", at(10, 1), []Value{{"8080:db:5432", at(11, 5)}, {"[::1]:80:é:90", at(12, 5)}}},
		{"serve", at(13, 1), []Value{{"80=8080", at(13, 9)}, {"0x10", at(13, 18)}, {"1.10", at(13, 24)}}},
		{"log-level", at(14, 1), []Value{{"info", at(14, 12)}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Values keep the text of the file, whatever type YAML would give them.
func TestParseKeepsText(t *testing.T) {
	for in, want := range map[string]string{
		"yes": "yes", "1e3": "1e3", "0o17": "0o17", "1_000": "1_000", "-5": "-5", ".inf": ".inf", "30s": "30s", "''": "",
		`""`:    "",
		"22:22": "22:22", "2024-01-01": "2024-01-01", "'~'": "~", "\"mem:\"": "mem:", "file:/run/x": "file:/run/x",
		"a b": "a b", "x#y": "x#y",
	} {
		got, err := Parse("f", []byte("state: "+in+"\n"), upKeys)
		if err != nil || len(got) != 1 || got[0].Values[0].Text != want {
			t.Errorf("%s: got %v, %v, want %q", in, got, err, want)
		}
	}
	for _, empty := range []string{"", "\n", "# nothing\n", "---\n", "---\n# nothing\n...\n", "forward: []\n"} {
		got, err := Parse("f", []byte(empty), upKeys)
		if err != nil || len(got) > 1 || len(got) == 1 && len(got[0].Values) != 0 {
			t.Errorf("%q: got %v, %v, want no values", empty, got, err)
		}
	}
}

func TestParseMistakes(t *testing.T) {
	const tag = "has an alias, anchor or tag; a value that starts with *, & or ! needs quotes"
	for _, test := range []struct{ file, want string }{
		{"foo: 1\n", `1:1: "foo": is not a known key`},
		{"dial_timeout: 1s\nLogLevel: info\n", "1:1: \"dial_timeout\": is not a known key, did you mean \"dial-timeout\"?\n" +
			`2:1: "LogLevel": is not a known key, did you mean "log-level"?`},
		{"state: a\nproxy: b\nstate: c\n", "3:1: state: is given a second time, the first is on line 1"},
		{"state: a\n'state': c\n", "2:1: state: is given a second time, the first is on line 1"},
		{"state: [a, b]\n", "1:8: state: is a list, want a single value"},
		{"state:\n  - a\n", "2:3: state: is a list, want a single value"},
		{"state:\n  a: b\n", "2:3: state: is a mapping, want a single value"},
		{"state: {a: b}\n", "1:8: state: is a mapping, want a single value"},
		{"forward:\n  - a: b\n  - c\n  - [d]\n",
			"2:5: forward[0]: is a mapping, want a single value\n4:5: forward[2]: is a list, want a single value"},
		{"forward: {}\n", "1:10: forward: is a mapping, want a single value"},
		{"state:\n", "1:8: state: has no value"},
		{"state: ~\n", "1:8: state: has no value"},
		{"state: null\nforward:\n  - a\n  -\n", "1:8: state: has no value\n4:5: forward[1]: has no value"},
		{"state: &a x\n", "1:8: state: " + tag},
		{"proxy: *:1080\n", "1:8: proxy: " + tag},
		{"state: !!str x\n", "1:8: state: " + tag},
		{"<<: *a\n", "1:1: key is not a plain word"},
		{"? state\n: a\n", "1:1: key is not a plain word"},
		{"state: |\n  a\n  b\n", "1:8: state: has a line break or control character in its value"},
		{"state: \"a\\x1b[0m\"\n", "1:8: state: has a line break or control character in its value"},
		{"- state\n", "1:1: is not a mapping of keys to values, one \"key: value\" a line"},
		{"state\n", "1:1: is not a mapping of keys to values, one \"key: value\" a line"},
		{"state:a\n", "1:1: is not a mapping of keys to values, one \"key: value\" a line"},
		{"state: a\n---\nproxy: b\n", "2:1: a second document starts here, want one"},
		{"state: a\n---\n", "2:1: a second document starts here, want one"},
		{"1: a\ntrue: b\nnull: c\n",
			"1:1: \"1\": is not a known key\n2:1: \"true\": is not a known key\n3:1: \"null\": is not a known key"},
		{"proxy: [::1]:1080\n", "1:13: value is not allowed in this context"},
		{"state: mem:\n", "1:8: mapping value is not allowed in this context"},
		{"state: 'x\n", "1:8: could not find end character of single-quoted text"},
		{"state: a\n\tproxy: b\n", "2:1: found character ' ' that cannot start any token"},
		{"state: @x\n", "1:8: '@' is a reserved character"},
		{"state: a\n# \xff\n", "2:3: is not UTF-8 text here"},
		{"state: a\x00b\n", "1:9: is not UTF-8 text here"},
		{strings.Repeat("#", maxYAML+1), " is larger than 64 KiB"},
		{"foo: a\nstate: [b]\nproxy: c\nproxy: d\nbar: e\n",
			"1:1: \"foo\": is not a known key\n2:8: state: is a list, want a single value\n" +
				"4:1: proxy: is given a second time, the first is on line 3\n5:1: \"bar\": is not a known key"},
	} {
		settings, err := Parse("up.yaml", []byte(test.file), upKeys)
		problems, ok := err.(Problems)
		if !ok || settings != nil {
			t.Errorf("%.40q: got %v, %v, want Problems", test.file, settings, err)
			continue
		}
		if got := strings.Join(texts(problems), "\n"); got != test.want {
			t.Errorf("%.40q:\ngot  %s\nwant %s", test.file, got, test.want)
		}
	}
}

// If no keys are known, every key is a mistake.
func TestParseKnowsNoKeys(t *testing.T) {
	settings, err := Parse("up.yaml", []byte("state: a\n"), map[string]Kind{})
	if err == nil || settings != nil || !strings.Contains(err.Error(), "is not a known key") {
		t.Errorf("got %v, %v, want that state is not a known key", settings, err)
	}
}

// No problem shows a secret that is near the mistake, although the YAML library would print the
// lines around it.
func TestParseMistakesShowNoSecrets(t *testing.T) {
	for _, file := range []string{
		"authkey: hunter2hunter2\n\tx: y\n",
		"authkey: 'hunter2hunter2\n",
		"authkey: hunter2hunter2: x\n",
		"authkey: [hunter2hunter2\nx: y\n",
		"authkey: hunter2hunter2\n x: y\n",
		"authkey: @hunter2hunter2\n",
		"authkey: \"hunter2hunter2\\q\"\n",
		"authkey: {hunter2hunter2: 1}\n",
		"authkey: [hunter2hunter2]\n",
		"authkey: &hunter2hunter2 x\n",
		"hunter2hunter2\n",
	} {
		if _, err := Parse("f", []byte(file), map[string]Kind{"authkey": Scalar}); err == nil ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", file, err)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "up.yaml")
	if err := os.WriteFile(path, []byte("state: a\nfoo: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, upKeys); err == nil || err.Error() != path+`:2:1: "foo": is not a known key` {
		t.Errorf("got %v", err)
	}
	got, err := Load(path, map[string]Kind{"state": Scalar, "foo": List})
	if err != nil || len(got) != 2 || got[1].Values[0] != (Value{"b", Position{path, 2, 6}}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Load(path+"x", upKeys); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("a missing file: got %v", err)
	}
}

func TestParseCutAnywhere(t *testing.T) {
	whole := example(t, "up.yaml")
	for n := range whole {
		checkYAML(t, whole[:n])
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("state: a\nproxy:\n  - b\n  - \"[::1]:1\"\nmesh-only: true\n"))
	f.Add([]byte("%YAML 1.2\n---\nstate: >-\n  x\n  y\n? a\n: b\n<<: *x\nforward: [a, {b: c}, !!str d, &e f]\n...\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4<<10 {
			return
		}
		checkYAML(t, b)
	})
}

// checkYAML checks properties of every input.
func checkYAML(t *testing.T, b []byte) {
	t.Helper()
	settings, err := Parse("f", b, upKeys)
	problems, ok := err.(Problems)
	if err != nil && (!ok || len(problems) == 0 || settings != nil) {
		t.Fatalf("got %v and error %v", settings, err)
	}
	for _, p := range problems {
		if strings.ContainsAny(p.Text, "\r\n\x00") {
			t.Fatalf("text %q", p.Text)
		}
	}
	var keys []string
	for _, s := range settings {
		kind, known := upKeys[s.Key]
		if !known || slices.Contains(keys, s.Key) || kind == Scalar && len(s.Values) != 1 {
			t.Fatalf("accepted %v", s)
		}
		keys = append(keys, s.Key)
		// Writing the settings as plain YAML and parsing that gives the same settings.
		for _, v := range s.Values {
			again, err := Parse("f", fmt.Appendf(nil, "%s: '%s'\n", s.Key, strings.ReplaceAll(v.Text, "'", "''")), upKeys)
			if err != nil || again[0].Values[0].Text != v.Text {
				t.Fatalf("%q becomes %v, %v", v.Text, again, err)
			}
		}
	}
}
