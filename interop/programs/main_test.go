package programs

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// roleVariable names the role of a process of this binary. It is empty in the process that go test
// starts.
const roleVariable = "GINNEL_PROGRAMS_ROLE"

const (
	testerRole = "tester" // runs the tests, in a new network namespace
	hostRole   = "host"   // keeps the network namespace of a host
)

// binariesVariable is the environment variable with the directory of the built programs.
const binariesVariable = "GINNEL_PROGRAMS_BINARIES"

// atOnce is how many tests run at the same time. They spend more time waiting for timers than
// computing.
const atOnce = 6

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case hostRole:
		if err := runHost(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case testerRole:
		flag.Parse()
		flag.Set("test.parallel", strconv.Itoa(atOnce))
		if err := makeHub(); err != nil {
			fmt.Fprintln(os.Stderr, "making the network:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	default:
		status, err := runInside()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(status)
	}
}

// runInside builds the programs and runs this binary again in a new network namespace, which ends
// with it.
func runInside() (status int, err error) {
	dir, err := os.MkdirTemp("", "ginnel-programs-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := buildAll(dir); err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVariable+"="+testerRole, binariesVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if id := os.Geteuid(); id != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	signal.Notify(make(chan os.Signal, 1), os.Interrupt) // an interrupt ends the tester first, and then this process
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("running the tests in a network namespace: %w", err)
	}
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

// buildAll builds all programs, each in the module that pins its version.
func buildAll(dir string) error {
	for _, b := range []struct {
		module   string
		into     string
		packages []string
	}{
		{"../..", "", []string{"ginnel/cmd/ginnel"}},
		{"..", "", []string{"tailscale.com/cmd/tailscale", "tailscale.com/cmd/tailscaled", "tailscale.com/cmd/derper"}},
		{"../headscale", "", []string{"github.com/juanfont/headscale/cmd/headscale"}},
		{"../oldest", oldest, []string{"tailscale.com/cmd/tailscale", "tailscale.com/cmd/tailscaled"}},
	} {
		into := filepath.Join(dir, b.into) + "/"
		cmd := exec.Command("go", append([]string{"build", "-o", into}, b.packages...)...)
		cmd.Dir = b.module
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", strings.Join(b.packages, " "), err, out)
		}
	}
	return nil
}

// oldest is the directory of the oldest stock client that our server admits whatever its relays.
const oldest = "oldest"

// binary returns the path of a built program.
func binary(name string) string { return filepath.Join(os.Getenv(binariesVariable), name) }
