package programs

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// upLine is a node of ours that is there for a while.
func upLine(h *host, dir, server, key string, more ...string) *exec.Cmd {
	cmd := h.command("ginnel", append([]string{"up", "--control", server, "--authkey", key, "--hostname", h.name,
		"--proxy", "unix:" + filepath.Join(dir, "proxy"), "--state", filepath.Join(dir, "state")}, more...)...)
	cmd.Env = bareEnvironment(dir)
	return cmd
}

// How 'ginnel up' ends when it is not ready in time, and when the server does not let it in.
const (
	unreadyStatus = 3
	refusedStatus = 4
)

// TestGuests proves that both servers refuse a wrong key in a way that our node understands, and
// forget a node of ours that came with a key for guests as soon as it leaves.
func TestGuests(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) (server coordinator, key string){
		"headscale": func(t *testing.T) (coordinator, string) {
			s := startHeadscale(t, startDerper(t))
			var k struct{ Key string }
			s.ask(t, &k, "preauthkeys", "create", "--user", "1", "--ephemeral", "--expiration", "1h")
			return s, k.Key
		},
		"our server": func(t *testing.T) (coordinator, string) {
			s := startOurServer(t, nil)
			return s, strings.TrimSpace(run(t, s.admin("keys", "create", "--user", "ann", "--ephemeral")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, key := open(t)
			h := newHost(t, "alpha")

			out, err := try(upLine(h, t.TempDir(), server.url(), "wrong"))
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != refusedStatus || !strings.Contains(out, "does not let this node in") {
				t.Errorf("with a wrong key: %v\n%s", err, indent(out))
			}

			p := start(t, "alpha (ginnel)", upLine(h, t.TempDir(), server.url(), key, "--ephemeral"))
			p.await(`"node joined"`)
			if all := server.members(t); !all["alpha"] {
				t.Errorf("the server knows %v, want alpha, connected", all)
			}
			p.stop()
			if all := server.members(t); len(all) != 0 {
				t.Errorf("when alpha has left the server knows %v", all)
			}
		})
	}
}
