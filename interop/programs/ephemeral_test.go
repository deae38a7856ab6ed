package programs

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ginnelUp returns a command that runs our node on h with its files in dir.
func ginnelUp(h *host, dir, server, key string, more ...string) *exec.Cmd {
	cmd := h.command("ginnel", append([]string{"up", "--control", server, "--authkey", key, "--hostname", h.name,
		"--proxy", "unix:" + filepath.Join(dir, "proxy"), "--state", filepath.Join(dir, "state")}, more...)...)
	cmd.Env = bareEnvironment(dir)
	return cmd
}

// Exit statuses of 'ginnel up': not ready in time, and refused by the server.
const (
	unreadyStatus = 3
	refusedStatus = 4
)

// TestEphemeralNodes proves that both servers refuse a wrong key in a way that our node
// understands, and delete our node with an ephemeral key as soon as it leaves.
func TestEphemeralNodes(t *testing.T) {
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

			out, err := try(ginnelUp(h, t.TempDir(), server.url(), "wrong"))
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != refusedStatus ||
				!strings.Contains(out, "does not let this node in") {
				t.Errorf("with a wrong key: %v\n%s", err, indent(out))
			}

			p := start(t, "alpha (ginnel)", ginnelUp(h, t.TempDir(), server.url(), key, "--ephemeral"))
			p.await(`"node joined"`)
			if all := server.members(t); !all["alpha"] {
				t.Errorf("the server knows %v, want alpha, connected", all)
			}
			p.stop()
			if all := server.members(t); len(all) != 0 {
				t.Errorf("after alpha has left, the server knows %v", all)
			}
		})
	}
}
