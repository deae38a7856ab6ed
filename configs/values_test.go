package configs

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSecret(t *testing.T) {
	for content, want := range map[string]string{
		"s3cret": "s3cret", "s3cret\n": "s3cret", "s3cret\r\n": "s3cret", "s3cret\n\n": "s3cret\n", " a b \n": " a b ",
		"a\r": "a\r", "file:x": "file:x",
	} {
		if got, err := Secret("file:" + writeFile(t, content)); err != nil || got != want {
			t.Errorf("file with %q: got %q, %v, want %q", content, got, err, want)
		}
	}
	for _, value := range []string{"", "s3cret", "FILE:x", "s3cret\n"} {
		if got, err := Secret(value); err != nil || got != value {
			t.Errorf("%q: got %q, %v", value, got, err)
		}
	}
	for name, path := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "none"), "empty": writeFile(t, ""), "line break": writeFile(t, "\n"),
		"directory": t.TempDir(), "large": writeFile(t, strings.Repeat("s3cret", maxSecret)),
	} {
		if got, err := Secret("file:" + path); err == nil || got != "" || !strings.Contains(err.Error(), path) ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %q, %v, want an error with the path", name, got, err)
		}
	}
	if _, err := Secret("file:"); err == nil {
		t.Error("file: without a path was accepted")
	}
}

func TestParseProxyAuth(t *testing.T) {
	long := strings.Repeat("x", 255)
	for in, want := range map[string]ProxyAuth{
		"ann:s3cret":                           {"ann", "s3cret"},
		"ann:s3:cr et":                         {"ann", "s3:cr et"},
		"file:" + writeFile(t, "ann:s3cret\n"): {"ann", "s3cret"},
		"file:" + writeFile(t, "file:ann"):     {"file", "ann"},
		long + ":" + long:                      {long, long},
		"\u00e4nn:p\u00e4ss":                   {"\u00e4nn", "p\u00e4ss"},
	} {
		if got, err := ParseProxyAuth(in); err != nil || got != want {
			t.Errorf("%q: got %q and %q, %v", in, got.User, got.Password, err)
		}
	}
	for _, in := range []string{"", "s3cret", ":s3cret", "s3cret:", "a:s3cret\nx", "s3cret\x00:x", "a:s3cret" + long,
		"s3cret" + long + ":a",
		"file:" + writeFile(t, "a:s3cret\nb:s3cret\n"), "file:" + writeFile(t, "s3cret")} {
		got, err := ParseProxyAuth(in)
		if err == nil || got != (ProxyAuth{}) || strings.Contains(err.Error(), "s3cret") ||
			!strings.Contains(err.Error(), "want USER:PASS or file:PATH") {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
}

func TestProxyAuthPrintsNoPassword(t *testing.T) {
	auth := ProxyAuth{"ann", "s3cret"}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", auth, &auth, struct{ A ProxyAuth }{auth})
	}
	out.WriteString(auth.String())
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "auth", auth)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "auth", auth)
	if got := out.String(); strings.Contains(got, "s3cret") || strings.Contains(got, "733363") ||
		!strings.Contains(got, "ann") {
		t.Errorf("printed %s", got)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "1024": 1024, "7B": 7, "32MiB": 32 << 20, "32Mi": 32 << 20, "1KiB": 1024, "1kB": 1000, "1KB": 1000,
		"2MB": 2e6, "3GiB": 3 << 30, "1TiB": 1 << 40, "0064MiB": 64 << 20, "9223372036854775807": 1<<63 - 1,
		"8388607TiB": 8388607 << 40,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "0MiB", "MiB", "-1", "+1", "1.5GiB", "32M", "32mib", "32 MiB", " 32MiB", "32MiB ",
		"1e3", "0x10", "1_0",
		"9223372036854775808", "8388608TiB", "9007199254740992KiB", "\u0663"} {
		got, err := ParseSize(in)
		if err == nil || got != 0 || !strings.HasPrefix(err.Error(), quote(in)+": ") ||
			!strings.Contains(err.Error(), "want a whole number") {
			t.Errorf("%q: got %d, %v", in, got, err)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("32MiB")
	f.Add("9223372036854775807")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseSize(s)
		if (err == nil) != (got > 0) {
			t.Fatalf("%q: got %d, %v", s, got, err)
		}
		if err != nil {
			return
		}
		if again, err := ParseSize(fmt.Sprint(got)); err != nil || again != got {
			t.Fatalf("%q: %d becomes %d, %v", s, got, again, err)
		}
	})
}
