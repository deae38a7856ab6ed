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

// roleVariable says what a process of this binary is: empty in the one that is started first.
const roleVariable = "GINNEL_PROGRAMS_ROLE"

const (
	testerRole = "tester" // runs the tests, in a namespace of its own
	hostRole   = "host"   // keeps the namespace of a node
)

// binariesVariable tells the tester where the programs are.
const binariesVariable = "GINNEL_PROGRAMS_BINARIES"

// atOnce is how many tests run at the same time. They wait for each other's clocks more than they
// compute.
const atOnce = 6

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case hostRole:
		if err := beHost(os.Args[1], os.Args[2:]); err != nil {
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

// runInside builds the programs and runs this binary again, in a network namespace that ends with
// it.
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
	signal.Notify(make(chan os.Signal, 1), os.Interrupt) // it ends the tests, and then this
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("running the tests in a network namespace: %w", err)
	}
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

// buildAll makes all programs, each in the module that pins its version.
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

// oldest is the directory of the oldest stock client that our server admits with every relay.
const oldest = "oldest"

// binary is the path of a program that was built.
func binary(name string) string { return filepath.Join(os.Getenv(binariesVariable), name) }
