//go:build lab

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inMount runs a program after preparing the mounts of its namespace by a shell command.
func inMount(c command, prepare string) command {
	c.before = []string{"sh", "-ec", prepare + `; exec "$@"`, "sh"}
	return c
}

// A state directory on a full disk stops the start with the reason, and nothing half-written is left in it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := newDir(t, "full")
	c := ginnelCommand(s.dir, "up", "--wireguard", s.file(wgFile{}), "--state", dir)
	c.before = []string{"sh", "-c", `mount -t tmpfs -o size=4k,uid=65534,gid=65534,mode=700 none ` + dir + ` && head -c 4096 /dev/zero > ` + dir +
		`/others && "$@"; status=$?; echo left: $(ls -A ` + dir + `); exit $status`, "sh"}
	r := s.client.run(c, "")
	if r.status != 1 || !strings.Contains(r.stderr, "writing to the state directory: ") || !strings.Contains(r.stderr, "no space left on device") {
		t.Errorf("status %d, %q, want 1 and no space left", r.status, r.stderr)
	}
	if !strings.Contains(r.stdout, "left: lock others\n") {
		t.Errorf("files in the state directory: %q, want the lock and the file that fills the disk", r.stdout)
	}
	assertSound(t, "ginnel", r.stdout+r.stderr, s.key.Raw())
}

// A node that needs no state runs without a place for it, whether the home cannot be written to by its mode, is on a
// file system that cannot be, or has become so after earlier runs. It says so, and commands find it by its proxy.
func TestReadOnlyHome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, prepare string }{
		{"mode", "chown root HOME && chmod 555 HOME"},
		{"file system", "mount --bind HOME HOME && mount -o remount,bind,ro HOME"},
		{"file system with earlier state", "mkdir -p -m 700 HOME/.local/state/ginnel && chown -R 65534 HOME/.local && mount --bind HOME HOME && mount -o remount,bind,ro HOME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			home := newDir(t, "home")
			cmd := inMount(ginnelCommand(home, "up", "--wireguard", s.file(wgFile{})), strings.ReplaceAll(c.prepare, "HOME", home))
			g := launchGinnel(s.client, s.key, cmd)
			g.await(&g.log, `"msg":"up"`, dialTimeout)
			if !strings.Contains(g.log.String(), "no state directory") {
				t.Errorf("nothing is said of the missing state directory: %s", g.log.String())
			}
			if r := s.client.tool(curl("--socks5", defaultProxy, "http://"+web(innerAddr4))...); r.status != 0 {
				t.Errorf("fetching a page: %+v", r)
			}
			if r := g.command("status", "--proxy", defaultProxy); r.status != 0 {
				t.Errorf("status by the proxy: %+v", r)
			}
			g.end()
		})
	}
}

// A state directory that was named must be usable, and nobody else's.
func TestStateDirectories(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	file := writeFile(t, filepath.Join(s.dir, "file"), "")
	shared := filepath.Join(s.dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	conf := s.file(wgFile{})
	for dir, want := range map[string]string{
		"/proc/nosuch":  "making the state directory",
		file:            "not a directory",
		file + "/below": "not a directory",
		shared:          "may be written to by others",
		"/":             "/",
	} {
		r := s.client.run(ginnelCommand(s.dir, "up", "--wireguard", conf, "--state", dir), "")
		if r.status != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("--state %s: status %d, %q, want 1 and %q", dir, r.status, r.stderr, want)
		}
	}
}
