package programs

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// middleboxDocs is the document with the configurations that the tests run.
const middleboxDocs = "../../docs/reverse-proxy.md"

// middleboxConfig returns the configuration in the document's code block for language, with the
// test's addresses and files.
func middleboxConfig(t *testing.T, language string, front, back netip.AddrPort, certificate, key string) string {
	t.Helper()
	page, err := os.ReadFile(middleboxDocs)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)```").FindSubmatch(page)
	if found == nil {
		t.Fatalf("%s has no configuration for %s", middleboxDocs, language)
	}
	text := string(found[1])
	for _, r := range []struct{ from, to string }{
		{":443", front.String()},
		{"listen 443", "listen " + front.String()},
		{"127.0.0.1:8080", back.String()},
		{"/etc/ssl/control.example.com.pem", certificate},
		{"/etc/ssl/control.example.com.key", key},
		{"control.example.com", front.Addr().String()},
	} {
		text = strings.ReplaceAll(text, r.from, r.to)
	}
	return text
}

// middleboxes are reverse proxies in front of a server, with their default idle timeouts.
var middleboxes = []struct {
	name string
	// command runs it in a directory with a configuration from the document.
	command func(t *testing.T, dir, config string) *exec.Cmd
}{
	{"nginx", func(t *testing.T, dir, config string) *exec.Cmd {
		file := writeText(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
			daemon off; error_log stderr; pid %[1]s/pid;
			events {}
			http {
				access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s;
				fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
				%[2]s
			}`, dir, config))
		return exec.Command("nginx", "-p", dir, "-c", file)
	}},
	{"haproxy", func(t *testing.T, dir, config string) *exec.Cmd {
		return exec.Command("haproxy", "-f", writeText(t, filepath.Join(dir, "haproxy.cfg"), config))
	}},
}

func writeText(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// idleTime is longer than the idle timeouts of both (HAProxy 50 s, nginx 60 s).
const idleTime = 70 * time.Second

// TestServerBehindMiddlebox proves that nodes of either make join a server and its relay behind
// nginx and HAProxy, configured as documented, and that neither closes an idle connection.
func TestServerBehindMiddlebox(t *testing.T) {
	t.Parallel()
	for _, box := range middleboxes {
		t.Run(box.name, func(t *testing.T) {
			t.Parallel()
			roots, certificate, key := writeCertificates(t)
			bundle := writeText(t, filepath.Join(t.TempDir(), "bundle.pem"), readText(t, certificate)+readText(t, key))
			s := newOurServer(t, "https", hub)
			back := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freeTCPPort(t, hub))
			metrics := hubAddr(freeTCPPort(t, hub))
			s.args = []string{"control", "serve", "--url", s.url(), "--plain", "--listen", back.String(), "--stun", "none",
				"--state", s.dir,
				"--base-domain", baseDomain, "--log-format", "text", "--metrics", metrics}
			if box.name == "haproxy" {
				certificate = bundle
			}
			front := box.command(t, t.TempDir(), middleboxConfig(t, box.name, s.at, back, certificate, key))
			front.Env = bareEnvironment(t.TempDir())
			start(t, box.name, front)
			s.startTrusted(t, roots)

			m := newMesh(t, s, nil)
			alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
			alpha.args = []string{"--ca-file", roots}
			beta.env = []string{"SSL_CERT_FILE=" + roots}
			m.join(alpha, beta)
			m.exchange()
			m.awaitPaths("relay")
			streams, relayed := openedStreams(t, metrics),
				counter(t, metrics, `ginnel_relay_accepted_connections_total{transport="derp"}`)
			time.Sleep(idleTime)
			if got := openedStreams(t, metrics); got != streams {
				t.Errorf("behind %s map streams were opened %d times before and %d times after %v without traffic",
					box.name, streams, got, idleTime)
			}
			if got := counter(t, metrics, `ginnel_relay_accepted_connections_total{transport="derp"}`); got != relayed {
				t.Errorf("behind %s relay connections were opened %d times before and %d times after %v without traffic",
					box.name, relayed, got, idleTime)
			}
			m.reachAll()
		})
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
