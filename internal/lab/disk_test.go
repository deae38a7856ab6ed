//go:build lab

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ginnel/key"
)

// inMount makes c run in its own mount namespace, which the shell command prepare sets up first.
func inMount(c command, prepare string) command {
	c.before = []string{"sh", "-ec", prepare + `; exec "$@"`, "sh"}
	return c
}

// If the state directory is on a full disk, the node does not start and gives the reason. It leaves
// no partly written file.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := newDir(t, "full")
	c := ginnelCommand(s.dir, "up", "--wireguard", s.file(wgFile{}), "--state", dir)
	c.before = []string{"sh", "-c", `mount -t tmpfs -o size=4k,uid=65534,gid=65534,mode=700 none ` + dir +
		` && head -c 4096 /dev/zero > ` + dir +
		`/others && "$@"; status=$?; echo left: $(ls -A ` + dir + `); exit $status`, "sh"}
	r := s.client.run(c, "")
	if r.status != 1 || !strings.Contains(r.stderr, "writing to the state directory: ") ||
		!strings.Contains(r.stderr, "no space left on device") {
		t.Errorf("status %d, %q, want 1 and no space left", r.status, r.stderr)
	}
	if !strings.Contains(r.stdout, "left: lock others\n") {
		t.Errorf("files in the state directory: %q, want only the lock and the file that fills the disk", r.stdout)
	}
	assertSound(t, "ginnel", r.stdout+r.stderr, s.key.Raw())
}

// A coordination server whose disk is full refuses what it cannot store, gives the reason and keeps
// running. Its data can still be read. With space again it serves new requests and the nodes that
// have waited. Nothing that it has acknowledged is lost.
func TestServerFullDisk(t *testing.T) {
	t.Parallel()
	ns := newNetns(t, "server")
	dir := newDir(t, "st")
	serve := []string{"control", "serve", "--url", "http://127.0.0.1:8080", "--stun", "none", "--state", dir}
	c := inMount(ginnelCommand(dir, serve...), "mount -t tmpfs -o size=1m,uid=65534,gid=65534,mode=700 none "+dir)
	p := ns.start("server", c)
	p.await(&p.log, "coordination server is up", dialTimeout)
	// The file system is mounted only in the server's mount namespace.
	inside := fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, dir)
	admin := func(args ...string) result {
		return ns.run(command{as: asRoot, args: append([]string{programs.ginnel, "control"},
			append(args, "--state", inside)...)}, "")
	}
	secret := strings.TrimSpace(mustDo(t, admin("users", "create", "ann"), admin("keys", "create", "--user", "ann")))
	fillDisk(t, filepath.Join(inside, "others"))
	known := []string{" ann "}
	var refused result
	for i := range 1000 { // the database file still has free pages
		name := fmt.Sprint("user", i)
		if refused = admin("users", "create", name); refused.status != 0 {
			break
		}
		known = append(known, " "+name+" ")
	}
	if refused.status != 1 || !strings.Contains(refused.stderr, "no space left on device") {
		t.Errorf("creating a user: status %d, %q, want 1 and no space left", refused.status, refused.stderr)
	}
	g := launchGinnel(ns, key.NewNodePrivate(),
		ginnelCommand(newDir(t, "home"), "up", "--control", "http://127.0.0.1:8080", "--authkey", secret))
	g.await(&g.log, "the server cannot store changes at the moment", dialTimeout)
	if r := admin("nodes", "list"); r.status != 0 || strings.Contains(r.stdout, " online ") ||
		strings.Contains(p.log.String(), "node registered") {
		t.Errorf("a node has joined although the server cannot store it: %+v", r)
	}
	assertUsers(t, "on a full disk", admin("users", "list"), known)
	if r := ns.tool(curl("http://127.0.0.1:8080/healthz")...); r.status != 0 {
		t.Errorf("health: %+v", r)
	}
	image := newDir(t, "image") // the database as a crash would leave it
	if err := copyFile(filepath.Join(inside, "control.db"), filepath.Join(image, "control.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(inside, "others")); err != nil {
		t.Fatal(err)
	}
	mustDo(t, admin("users", "create", "later"))
	eventually(t, "the node that has waited joins", dialTimeout, func() bool {
		return strings.Contains(mustDo(t, admin("nodes", "list")), " online ")
	})
	assertUsers(t, "with space again", admin("users", "list"), append(known, " later "))
	g.terminate()
	if status, _ := p.terminate(); status != 0 {
		t.Errorf("the server ended with status %d", status)
	}
	assertSound(t, "the server", p.log.String())

	serve[len(serve)-1] = image
	again := ns.start("server after a crash", command{as: asRoot, args: append([]string{programs.ginnel}, serve...)})
	again.await(&again.log, "coordination server is up", dialTimeout)
	r := ns.run(command{as: asRoot, args: []string{programs.ginnel, "control", "users", "list", "--state", image}}, "")
	assertUsers(t, "after a crash", r, known)
}

// mustDo checks that all commands have succeeded and returns the standard output of the last.
func mustDo(t *testing.T, results ...result) (out string) {
	t.Helper()
	for _, r := range results {
		if out = r.stdout; r.status != 0 {
			t.Fatalf("status %d: %s", r.status, r.stderr)
		}
	}
	return out
}

func assertUsers(t *testing.T, when string, r result, want []string) {
	t.Helper()
	for _, name := range want {
		if r.status != 0 || !strings.Contains(r.stdout, name) {
			t.Errorf("%s: status %d, user %s of %d is missing: %s%s", when, r.status, name, len(want), r.stdout, r.stderr)
			return
		}
	}
}

// fillDisk writes a file until no space is left.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// A node with a WireGuard file needs no state directory. It runs with a home that it cannot write
// to: by its mode, on a read-only file system, or on one that has become read-only after earlier
// runs. It says so, and commands reach it through its proxy.
func TestReadOnlyHome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, prepare string }{
		{"mode", "chown root HOME && chmod 555 HOME"},
		{"file system", "mount --bind HOME HOME && mount -o remount,bind,ro HOME"},
		{"file system with earlier state",
			"mkdir -p -m 700 HOME/.local/state/ginnel && chown -R 65534 HOME/.local && " +
				"mount --bind HOME HOME && mount -o remount,bind,ro HOME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			home := newDir(t, "home")
			cmd := inMount(ginnelCommand(home, "up", "--wireguard", s.file(wgFile{})),
				strings.ReplaceAll(c.prepare, "HOME", home))
			g := launchGinnel(s.client, s.key, cmd)
			g.await(&g.log, `"msg":"node up"`, dialTimeout)
			if !strings.Contains(g.log.String(), "no state directory") {
				t.Errorf("the log does not mention the missing state directory: %s", g.log.String())
			}
			if r := s.client.tool(curl("--socks5", defaultProxy, "http://"+web(innerAddr4))...); r.status != 0 {
				t.Errorf("fetching a page: %+v", r)
			}
			if r := g.command("status", "--proxy", defaultProxy); r.status != 0 {
				t.Errorf("status through the proxy: %+v", r)
			}
			g.end()
		})
	}
}

// A state directory given by --state must be usable, and writable by its owner only.
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
