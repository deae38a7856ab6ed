//go:build lab

package lab

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// programs holds the paths of this run's programs and files. Only TestMain sets it.
var programs struct {
	dir       string // every user may enter it
	ginnel    string
	wireguard string // wireguard-go
	self      string // a copy of this test binary, for roles
}

// parallelTests is how many tests run at a time unless -parallel is given. It exceeds the number of
// processors because most tests wait most of the time.
const parallelTests = "5"

// prefix begins the name of everything that a run creates outside its own memory.
const prefix = "ginnel-lab-"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(runRole(role, os.Args[1:]))
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", parallelTests)
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	if err := checkMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "the lab cannot run:", err)
		return 1
	}
	removeStale()
	programs.dir = filepath.Join(os.TempDir(), prefix+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(filepath.Join(programs.dir, "wg"), 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs.dir)
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "building the programs of the lab:", err)
		return 1
	}
	return m.Run()
}

// checkMachine returns an error that names what the lab needs and the machine lacks.
func checkMachine() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("it needs Linux")
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("it needs root, to make network namespaces")
	}
	tools := map[string]string{
		"ip": "iproute2", "nft": "nftables", "tcpdump": "tcpdump", "nc": "netcat-openbsd", "curl": "curl",
		"ping": "iputils-ping", "setpriv": "util-linux", "prlimit": "util-linux", "mount": "mount",
	}
	var missing []string
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	if out, _ := exec.Command("nc", "-h").CombinedOutput(); !slices.Contains(missing, "netcat-openbsd") &&
		!strings.Contains(string(out), "OpenBSD") {
		missing = append(missing, "netcat-openbsd")
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("programs are missing; on Debian: apt-get install %s", strings.Join(missing, " "))
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("the stock WireGuard peer needs a TUN device: %w", err)
	}
	return nil
}

// removeStale removes the namespaces and files of runs that were killed.
func removeStale() {
	gone := func(path string) bool {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), prefix), "-")
		_, err := os.Stat("/proc/" + pid)
		return err != nil
	}
	spaces, _ := filepath.Glob("/run/netns/" + prefix + "*")
	for _, path := range spaces {
		if gone(path) {
			exec.Command("ip", "netns", "del", filepath.Base(path)).Run()
		}
	}
	for _, pattern := range []string{"/etc/netns/" + prefix + "*", filepath.Join(os.TempDir(), prefix+"*")} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if gone(path) {
				os.RemoveAll(path)
			}
		}
	}
}

// build builds the program under test as it is released, and wireguard-go. It also copies this
// binary to where every user may execute it.
func build() error {
	programs.ginnel = filepath.Join(programs.dir, "ginnel")
	programs.wireguard = filepath.Join(programs.dir, "wireguard-go")
	programs.self = filepath.Join(programs.dir, "lab.test")
	sockets := "-X golang.zx2c4.com/wireguard/ipc.socketDirectory=" + filepath.Join(programs.dir, "wg")
	for _, args := range [][]string{
		{"build", "-trimpath", "-o", programs.ginnel, "ginnel/cmd/ginnel"},
		{"build", "-ldflags", sockets, "-o", programs.wireguard, "golang.zx2c4.com/wireguard"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return copySelf()
}

func copySelf() error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(programs.self, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}
