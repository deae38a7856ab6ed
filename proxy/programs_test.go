package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Common programs understand our side of the protocols.
func TestPrograms(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	r := &recorder{next: origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/big":
			io.WriteString(w, big)
		default:
			io.WriteString(w, r.Method+" "+r.Host+" "+string(body))
		}
	})}
	s := &Server{Dial: r.dial, Auth: annOnly, Pages: http.HandlerFunc(page)}
	open := &Server{Dial: r.dial}
	addr, openAddr := serve(t, s), serve(t, open)
	unix := serveKind(t, "unix", s).String()

	const url = "http://web.mesh/"
	const get = "GET / HTTP/1.0\r\nHost: h\r\n\r\n"
	with := func(args ...string) []string { return append([]string{"curl", "-sS", "--max-time", "20"}, args...) }
	tests := []struct {
		name string
		args []string
		in   string
		want string // of the output
		dial string
	}{
		{"socks5h", with("-x", "socks5h://ann:secret@"+addr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"socks5-hostname", with("--socks5-hostname", openAddr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"socks5 address", with("-x", "socks5://ann:secret@"+addr, "http://100.64.0.7:81/"), "",
			"GET 100.64.0.7:81 ", "100.64.0.7:81"},
		{"socks5 IPv6", with("-g", "-x", "socks5h://ann:secret@"+addr, "http://[fd7a::1]/"), "",
			"GET [fd7a::1] ", "[fd7a::1]:80"},
		{"socks4a", with("-x", "socks4a://"+openAddr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"socks4", with("-x", "socks4://"+openAddr, "http://100.64.0.7/"), "", "GET 100.64.0.7 ", "100.64.0.7:80"},
		{"http", with("-x", "http://ann:secret@"+addr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"http/1.0", with("-0", "-x", "http://ann:secret@"+addr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"http twice", with("-x", "http://ann:secret@"+addr, url, url), "", "GET web.mesh GET web.mesh ", "web.mesh:80"},
		{"post", with("-x", "http://ann:secret@"+addr, "-d", "text", url), "", "POST web.mesh text", "web.mesh:80"},
		{"post from a pipe", with("-x", "http://ann:secret@"+addr, "-H", "Expect: 100-continue", "-T", "-", url),
			"text", "PUT web.mesh text", "web.mesh:80"},
		{"connect", with("-p", "-x", "http://ann:secret@"+addr, url), "", "GET web.mesh ", "web.mesh:80"},
		{"connect/1.0", with("-p", "--proxy1.0", addr, "-U", "ann:secret", url), "", "GET web.mesh ", "web.mesh:80"},
		{"connect, big", with("-p", "-x", "http://ann:secret@"+addr, url+"big"), "", big, "web.mesh:80"},
		{"socks5h, big", with("-x", "socks5h://ann:secret@"+addr, url+"big"), "", big, "web.mesh:80"},
		{"http, big", with("-x", "http://ann:secret@"+addr, url+"big"), "", big, "web.mesh:80"},
		{"no password", with("-o", "/dev/null", "-w", "%{http_code}", "-x", addr, url), "", "407", ""},
		{"page", with("http://" + addr + "/status"), "", "page /status ", ""},
		{"page by proxy", with("-x", addr, "http://localhost:"+port(addr)+"/status"), "", "page /status ", ""},
		{"page by unix socket", with("--unix-socket", unix, "http://ginnel/status"), "", "page /status ", ""},
		{"nc connect", []string{"nc", "-X", "connect", "-x", openAddr, "web.mesh", "80"}, get, "GET h ", "web.mesh:80"},
		{"nc socks5", []string{"nc", "-X", "5", "-x", openAddr, "web.mesh", "80"}, get, "GET h ", "web.mesh:80"},
		{"nc socks4", []string{"nc", "-X", "4", "-x", openAddr, "100.64.0.7", "80"}, get, "GET h ", "100.64.0.7:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := exec.LookPath(tt.args[0]); err != nil {
				t.Skip("not installed:", tt.args[0])
			}
			r.mu.Lock()
			r.addrs = nil
			r.mu.Unlock()
			out := run(t, tt.in, tt.args...)
			if !strings.HasSuffix(out, tt.want) || tt.args[0] == "curl" && out != tt.want {
				t.Errorf("%v: got %.200q, want %.200q", tt.args, out, tt.want)
			}
			if got := r.last(); got != tt.dial && got != "" { // "": an idle connection was reused
				t.Errorf("dialled %q, want %q", got, tt.dial)
			}
		})
	}
}

func port(addr string) string { _, port, _ := net.SplitHostPort(addr); return port }

func run(t *testing.T, in string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	return out.String()
}

// curl shows the reason for a failed dial.
func TestProgramsSeeReasons(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("not installed: curl")
	}
	addr := serve(t, &Server{Dial: dialFail(wrapped(syscall.ECONNREFUSED))})
	for _, tt := range []struct{ proxy, want string }{
		{"socks5h://" + addr, "(5)"}, // connection refused
		{"socks4a://" + addr, "91"},  // request rejected
		{"http://" + addr, "reaching web.mesh:80: connect: connection refused\n"},
	} {
		cmd := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "20", "-x", tt.proxy, "http://web.mesh/")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: got %q, want %q in it", tt.proxy, out, tt.want)
		}
	}
}
