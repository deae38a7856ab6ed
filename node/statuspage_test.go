package node

import (
	"strings"
	"testing"
)

// The status page shows sizes with units, times with zones, and a shell command to copy.
func TestStatusPage(t *testing.T) {
	a, b := two(t, withProxy, func(c *Config) { c.Version = "v9.8.7" })
	b.serveHTTP(80, strings.Repeat("x", 3000))
	if _, err := a.get("http://beta/"); err != nil {
		t.Fatal(err)
	}
	_, _, body := page(t, a.Node, "GET", "/", "")
	at := a.Status().Proxies[0]
	for _, want := range []string{
		"version v9.8.7", "up since 20", " UTC", " KiB", "<td data-label=\"Relay\">test",
		"<code>export http_proxy=http://" + at + " https_proxy=http://" + at + "</code>",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %q on the page:\n%s", want, body)
		}
	}
	a.cfg.ProxyAuth = func(string, string) bool { return true }
	if line := a.api.shellLine(); !strings.Contains(line, "http://USER:PASSWORD@"+at) {
		t.Errorf("with a password the line is %q", line)
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB",
		3 << 50: "3072.0 TiB"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}
