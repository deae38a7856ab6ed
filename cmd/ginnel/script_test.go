package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"ginnel/internal/cli"
)

// TestMain lets scripts run the test binary as ginnel.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ginnel":  func() { main() },
		"gofetch": goFetch,

		"subreaper": beSubreaper,
	})
}

// jobs is how many 'ginnel run' the script runleaves starts in a row.
var jobs = flag.Int("jobs", 20, "run so many jobs in a row in testdata/runleaves.txtar")

// TestScripts runs each file of testdata, which reads as a manual page of one command.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setUpScript,

		Condition: scriptCondition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport":  freePort,
			"terminate": terminateBackground, // not stop, which testscript has: it ends the script
			"await":     awaitAnswer,
			"awaitfile": awaitFile,
			"get":       getPage,
			"mode":      wantMode,

			"substitute": substitute,
			"exits":      wantExit,
			"hangup":     hangUp,
			"awaitlog":   awaitLog,

			"counter":     counterService,
			"noprocess":   noProcess,
			"awaitoutput": awaitOutput,
			"certificate": makeCertificate,
			"speaker":     speakFirst,
			"sshserver":   serveSSH,
			"askdns":      askDNS,
			"web":         serveWeb,
		},
	})
}

// setUpScript gives a script a home of its own, and none of the settings around us.
func setUpScript(env *testscript.Env) error {
	home := env.WorkDir + "/home"
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("JOBS", fmt.Sprint(*jobs))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
		"all_proxy", "no_proxy", "XDG_STATE_HOME",
		"GIT_SSH", "GIT_SSH_COMMAND", "JAVA_TOOL_OPTIONS", "GINNEL_PROXY"} {
		env.Setenv(name, "")
	}
	return nil
}

// freePort sets variables to ports that nobody uses: freeport A B.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: freeport NAME...")
	}
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer ln.Close()
		ts.Setenv(name, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
	}
}

// terminateBackground sends SIGTERM to everything in the background: terminate. The script waits
// for the end of each with wait.
func terminateBackground(ts *testscript.TestScript, neg bool, args []string) {
	for _, c := range ts.BackgroundCmds() {
		c.Process.Signal(syscall.SIGTERM)
	}
}

// awaitAnswer waits until something listens: await HOST:PORT.
func awaitAnswer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: await HOST:PORT")
	}
	for range 1000 {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("nothing listens on %s after 10 s", args[0])
}

// awaitFile waits until a file is there: awaitfile FILE.
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: awaitfile FILE")
	}
	for range 1000 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s is not there after 10 s", args[0])
}

// getPage fetches a URL and prints the body as its output: get URL. Statuses of 400 and more are
// failures.
func getPage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] get URL")
	}
	resp, err := http.Get(args[0])
	if err != nil {
		if !neg {
			ts.Fatalf("%v", err)
		}
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s", b)
	if failed := resp.StatusCode >= 400; failed != neg {
		ts.Fatalf("%s: %s", args[0], resp.Status)
	}
}

// substitute replaces the variables in files: substitute FILE...
func substitute(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// wantMode checks the permissions of files: mode 0600 FILE...
func wantMode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: mode MODE FILE...")
	}
	for _, name := range args[1:] {
		fi, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", fi.Mode().Perm()); (got == args[0]) == neg {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// Every flag says what it is for, every command has an example, and no flag of one name means
// different things.
func TestHelpIsComplete(t *testing.T) {
	root := cli.NewRoot(cli.Program{}, commands(cli.Program{})...)
	kinds := cli.KnownSettings(root)
	if len(kinds) < 20 {
		t.Errorf("only %d settings", len(kinds))
	}
	for _, c := range allCommands(root) {
		if c.Short == "" || c.Example == "" && len(c.Commands()) == 0 {
			t.Errorf("%s has no description or example", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short description ends with a dot", c.CommandPath())
		}
	}
	var out strings.Builder
	p := cli.Program{Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }, Environ: os.Environ}
	code := cli.Run(context.Background(), p, cli.NewRoot(p, commands(p)...), []string{"up", "--help"})
	if code != cli.ExitOK || !strings.Contains(out.String(), "ginnel up --wireguard wg0.conf") {
		t.Errorf("up --help exits with %d and prints\n%s", code, out.String())
	}
}

func allCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, allCommands(sub)...)
	}
	return all
}
