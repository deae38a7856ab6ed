package proxy

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ServeUser serves programs of this user without a password, in every protocol. A listener of Serve
// on the same Server still asks for one. A program of another user is disconnected without an
// answer.
func TestServeUser(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	s := &Server{Auth: annOnly, Dial: origin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })}
	asking := serve(t, s)
	ln := listen(t)
	donec := make(chan error, 1)
	go func() { donec <- s.ServeUser(ln) }()
	t.Cleanup(func() { s.Close(); <-donec })
	open := ln.Addr().String()

	fetch := func(user uint32, args ...string) string {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-sS", "--max-time", "20", "-o", "-", "-w", " %{http_code}"}, args...)...)
		if user != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	for _, proxy := range []string{"http://", "socks5h://", "socks4a://"} {
		if got := fetch(0, "-x", proxy+open, "http://web.mesh/"); got != "ok 200" {
			t.Errorf("%s without a password, by the same user: %q, want the page", proxy, got)
		}
	}
	if got := fetch(0, "-p", "-x", open, "http://web.mesh/"); got != "ok 200" {
		t.Errorf("CONNECT without a password, by the same user: %q, want the page", got)
	}
	if got := fetch(0, "-x", asking, "http://web.mesh/"); !strings.HasSuffix(got, " 407") {
		t.Errorf("without a password at the port that asks for one: %q, want 407", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	before := s.Stats().AuthRefused
	got := fetch(12345, "-x", open, "http://web.mesh/")
	if !strings.HasSuffix(got, " 000") || strings.Contains(got, "ok") {
		t.Errorf("by another user: %q, want no answer", got)
	}
	if got := s.Stats().AuthRefused - before; got != 1 {
		t.Errorf("%d refusals were counted, want 1", got)
	}
}
