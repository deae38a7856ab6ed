package controlcmd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/control/server"
	"ginnel/internal/cli"
	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// testControl is a server that runs in this process.
type testControl struct {
	t     *testing.T
	state string
	url   string
	log   logBuffer
}

// logBuffer is read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testProgram(stdout, stderr io.Writer) cli.Program {
	return cli.Program{Stdout: stdout, Stderr: stderr, Getenv: func(string) string { return "" },
		Environ: func() []string { return nil }}
}

// runCommand runs the program with the commands of this package alone.
func runCommand(ctx context.Context, p cli.Program, args []string) int {
	return cli.Run(ctx, p, cli.NewRoot(p, New(p)), args)
}

// serveDev starts control serve --dev on loopback and waits for its line.
func serveDev(t *testing.T, args ...string) *testControl {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &testControl{t: t, state: filepath.Join(dir, "st")}
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var wg sync.WaitGroup
	args = append([]string{"control", "serve", "--dev", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--state",
		c.state}, args...)
	wg.Go(func() {
		if code := runCommand(ctx, testProgram(in, &c.log), args); code != cli.ExitOK {
			t.Errorf("control serve ends with %d", code)
		}
		in.Close()
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if t.Failed() {
			t.Log(c.log.String())
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err, c.log.String())
	}
	c.url = strings.Fields(line)[3]
	return c
}

// command runs a command on the server and returns what it prints.
func (c *testControl) command(want int, args ...string) string {
	c.t.Helper()
	var out, errs bytes.Buffer
	code := runCommand(c.t.Context(), testProgram(&out, &errs),
		append(append([]string{"control"}, args...), "--state", c.state))
	if code != want {
		c.t.Fatalf("%v ends with %d, want %d: %s%s", args, code, want, &out, &errs)
	}
	return out.String() + errs.String()
}

// join starts a node that the key lets in, and waits until it is.
func (c *testControl) join(name, key string, change func(*node.Config)) *node.Node {
	c.t.Helper()
	cfg := node.Config{UDPAddr: netip.MustParseAddr("127.0.0.1"),
		Control: &node.Control{URL: c.url, AuthKey: key, Hostname: name}}
	if change != nil {
		change(&cfg)
	}
	n, err := node.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { n.Close() })
	c.eventually(name+" has joined", func() bool { return n.Status().State == node.StateRunning })
	return n
}

func (c *testControl) eventually(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within 10 s\n%s", what, c.log.String())
		}
	}
}

// From nothing: a server, a key made by command, two nodes that join with it, and a page that one
// of them fetches from the other with nothing but the server's own relay between them, which is on
// the same port.
func TestControlJoin(t *testing.T) {
	page, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		io.WriteString(w, "hello")
	})}
	go web.Serve(page)
	defer web.Close()

	c := serveDev(t)
	key := strings.TrimSpace(c.command(cli.ExitOK, "keys", "create", "--user", "dev", "--reusable"))
	relayed := func(cfg *node.Config) { cfg.RelayOnly = true }
	c.join("beta", key, func(cfg *node.Config) {
		relayed(cfg)
		cfg.Serves = []node.Serve{{Port: 80, Target: page.Addr()}}
	})
	a := c.join("alpha", key, relayed)
	s := a.Status()
	if len(s.Self.Addresses) != 2 || !netip.MustParsePrefix("100.64.0.0/10").Contains(s.Self.Addresses[0]) {
		t.Errorf("alpha has the addresses %v", s.Self.Addresses)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: a.DialContext}}
	resp, err := client.Get("http://beta/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "hello" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if p := a.Status().Peers[0]; p.Path != node.PathRelay {
		t.Errorf("the path is %v", p.Path)
	}

	var nodes []server.Node
	if err := json.Unmarshal([]byte(c.command(cli.ExitOK, "nodes", "list", "--json")), &nodes); err != nil ||
		len(nodes) != 2 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	if nodes[1].Name != "alpha" || !nodes[1].Online || nodes[1].Relay != embeddedRegion || nodes[1].User != devUser {
		t.Errorf("alpha is %+v", nodes[1])
	}
	c.command(cli.ExitOK, "nodes", "rename", "beta", "gamma")
	c.eventually("alpha knows the new name", func() bool { return a.Status().Peers[0].Name == "gamma" })
	if out := c.command(cli.ExitOK, "nodes", "show", "gamma.ginnel.internal"); !strings.Contains(out,
		"state              online") {
		t.Error(out)
	}
	c.command(cli.ExitOK, "nodes", "tag", "gamma", "tag:web,tag:old")
	if out := c.command(cli.ExitOK, "nodes", "list"); !strings.Contains(out, "tag:old,tag:web") {
		t.Error(out)
	}
	c.command(cli.ExitOK, "nodes", "move", "gamma", "dev")
	c.command(cli.ExitOK, "nodes", "expire", "alpha")
	c.command(cli.ExitOK, "nodes", "delete", "2")
	c.command(cli.ExitFailure, "nodes", "show", "alpha")
}

// A node without a key waits for somebody to approve it, by the number or by the address that it
// shows.
func TestControlApprove(t *testing.T) {
	c := serveDev(t)
	login := make(chan string, 1)
	n, err := node.New(node.Config{UDPAddr: netip.MustParseAddr("127.0.0.1"),
		Control: &node.Control{URL: c.url, Hostname: "alpha", Login: func(url string) { login <- url }}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	url := <-login
	c.eventually("alpha is listed", func() bool {
		out := c.command(cli.ExitOK, "nodes", "pending")
		return strings.Contains(out, "alpha") && strings.Contains(out, "ginnel-login-") && strings.Contains(out, " waiting ")
	})
	c.command(cli.ExitFailure, "nodes", "approve", url, "--user", "nobody")
	if out := c.command(cli.ExitOK, "nodes", "approve", url, "--user", "dev"); !strings.HasPrefix(out,
		"node alpha of dev is let in, with the addresses 100.64.0.1 ") {
		t.Error(out)
	}
	c.eventually("alpha has joined", func() bool { return n.Status().State == node.StateRunning })
}

// Routes are approved one by one or all together, and an exit node in both families or in none.
func TestControlRoutes(t *testing.T) {
	c := serveDev(t)
	key := strings.TrimSpace(c.command(cli.ExitOK, "keys", "create", "--user", "dev"))
	c.join("office", key, nil)
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"approve", "office", "10.20.0.0/16"}, "approved 10.20.0.0/16"},
		{[]string{"approve", "office", "0.0.0.0/0"}, "approved 10.20.0.0/16 0.0.0.0/0 ::/0"},
		{[]string{"revoke", "office", "0.0.0.0/0"}, "approved 10.20.0.0/16,"},
		{[]string{"revoke", "office"}, "approved -"},
	} {
		if out := c.command(cli.ExitOK, append([]string{"nodes", "routes"}, step.args...)...); !strings.Contains(out,
			step.want) {
			t.Errorf("%v: %s, want %s", step.args, out, step.want)
		}
	}
	c.command(cli.ExitUsage, "nodes", "routes", "approve", "office", "10.20.0.1/16")
}

// The relay is for nodes of the network alone.
func TestControlRelayAdmission(t *testing.T) {
	c := serveDev(t)
	client, err := relay.Dial(t.Context(), c.url+"/derp", relay.ClientConfig{Key: key.NewNodePrivate()})
	if err == nil {
		defer client.Close()
		_, err = client.Recv()
	}
	if err == nil {
		t.Error("a stranger is a client of the relay")
	}
}

// TLS and plain HTTP are served on one port, and one who says nothing holds up nobody.
func TestControlOnePort(t *testing.T) {
	c := serveDev(t)
	silent, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for _, scheme := range []string{"http", "https"} {
		for _, path := range []string{"/healthz", "/derp/probe"} {
			resp, err := client.Get(scheme + strings.TrimPrefix(c.url, "http") + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %s", scheme, path, resp.Status)
			}
		}
	}
}

// A policy file is put in force when it changes; one with mistakes is logged with its place, and
// the one before it stays.
func TestControlPolicyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.hujson")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"acls": []}`)
	c := serveDev(t, "--policy", file)
	write("{\n\t\"acls\": \"everybody\"}")
	c.eventually("the mistake is logged", func() bool { return strings.Contains(c.log.String(), file+":2:10: ") })
	if out := c.command(cli.ExitOK, "policy", "get"); out != `{"acls": []}` {
		t.Errorf("the policy is %s", out)
	}
	write(`{"acls": [], "groups": {}}`)
	c.eventually("the change is in force", func() bool {
		return c.command(cli.ExitOK, "policy", "get") == `{"acls": [], "groups": {}}`
	})
	os.Remove(file)
	c.eventually("that the file is gone is logged",
		func() bool { return strings.Contains(c.log.String(), "no such file") })
	if out := c.command(cli.ExitOK, "policy", "get"); out != `{"acls": [], "groups": {}}` {
		t.Errorf("the policy is %s", out)
	}
}

// The example must be good, and shown to be so by the command that people use.
func TestExamplePolicy(t *testing.T) {
	text, err := configs.Examples.ReadFile("examples/policy.hujson")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.hujson")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := serveDev(t)
	if out := c.command(cli.ExitOK, "policy", "check", file); !strings.Contains(out, `there is no user "ben@"`) {
		t.Errorf("users whom nobody is are not told of: %s", out)
	}
	for _, user := range []string{"ann", "Ben", "cleo@example.com"} {
		c.command(cli.ExitOK, "users", "create", user)
	}
	for _, args := range [][]string{{"check", file}, {"check", "--offline", file}} {
		if out := c.command(cli.ExitOK, append([]string{"policy"}, args...)...); out != file+" is good\n" {
			t.Errorf("%v: %s", args, out)
		}
	}
}

// The example of a configuration has every setting, and every value is one.
func TestExampleControl(t *testing.T) {
	text, err := configs.Examples.ReadFile("examples/control.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cmd := newControlServe(cli.Program{})
	known := cli.KnownSettings(cmd)
	settings, err := configs.Parse("control.yaml", text, known)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range settings {
		got = append(got, s.Key)
		for _, v := range s.Values {
			if err := cmd.Flags().Set(s.Key, v.Text); err != nil {
				t.Errorf("%v: %v", v.At, err)
			}
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		shown := slices.Contains(got, f.Name) || strings.Contains(string(text), "\n# "+f.Name+": ")
		if cli.IsSetting(f) && !shown {
			t.Errorf("the example leaves out %s", f.Name)
		}
	})
}

// Scripts tell failures apart by the exit status.
func TestControlStatuses(t *testing.T) {
	c := serveDev(t)
	for _, test := range []struct {
		want int
		args []string
	}{
		{cli.ExitUsage, []string{"control", "users", "create"}},
		{cli.ExitUsage, []string{"control", "serve", "--url", "https://control.example.com", "--relay", "none"}},
		{cli.ExitFailure, []string{"control", "users", "delete", "nobody", "--state", c.state}},
		{cli.ExitRefused, []string{"control", "users", "list", "--server", c.url, "--token", "wrong"}},
		{cli.ExitControl, []string{"control", "users", "list", "--state", t.TempDir()}},
		{cli.ExitControl, []string{"control", "users", "list", "--server", "http://127.0.0.1:1", "--token", "x"}},
	} {
		var out bytes.Buffer
		if got := runCommand(t.Context(), testProgram(&out, &out), test.args); got != test.want {
			t.Errorf("%v ends with %d, want %d: %s", test.args, got, test.want, &out)
		}
	}
}

// A copy of a node's keys that runs beside it is seen by both, and by the administrator.
func TestControlCopiedState(t *testing.T) {
	c := serveDev(t)
	key := strings.TrimSpace(c.command(cli.ExitOK, "keys", "create", "--user", "dev"))
	saved := make(chan node.Identity, 10)
	a := c.join("laptop", key, func(cfg *node.Config) {
		cfg.Control.Save = func(id node.Identity) error { saved <- id; return nil }
	})
	id := <-saved
	for len(saved) > 0 {
		id = <-saved
	}
	b := c.join("vm", "", func(cfg *node.Config) { cfg.Control.Identity = id })
	told := func(n *node.Node) func() bool {
		return func() bool {
			return slices.ContainsFunc(n.Status().Health, func(h node.HealthIssue) bool {
				return h.Code == "duplicate-key"
			})
		}
	}
	c.eventually("one is told", told(a))
	c.eventually("the other is told", told(b))
	if out := c.command(cli.ExitOK, "nodes", "list"); !strings.Contains(out, "online,contested") {
		t.Error(out)
	}
	if !strings.Contains(c.log.String(), "two processes use the key of one node") {
		t.Error(c.log.String())
	}
}

// A node that is deleted, or whose key expires, is cut off from the relay too, and stays so.
func TestControlRelayCut(t *testing.T) {
	c := serveDev(t)
	authKey := strings.TrimSpace(c.command(cli.ExitOK, "keys", "create", "--user", "dev", "--reusable"))
	for _, how := range []string{"delete", "expire"} {
		secret := key.NewNodePrivate()
		n := c.join(how, authKey, func(cfg *node.Config) { cfg.Control.Identity = node.Identity{URL: c.url, Node: secret} })
		n.Close() // only the relay knows the key now
		client, err := relay.Dial(t.Context(), c.url+"/derp", relay.ClientConfig{Key: secret})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Send(secret.Public(), [][]byte{[]byte("to myself")}); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Recv(); err != nil || len(got) == 0 {
			t.Fatalf("a node gets %d messages by the relay: %v", len(got), err)
		}
		c.command(cli.ExitOK, "nodes", how, how)
		for err == nil {
			_, err = client.Recv()
		}
		again, err := relay.Dial(t.Context(), c.url+"/derp", relay.ClientConfig{Key: secret})
		if err == nil {
			defer again.Close()
			_, err = again.Recv()
		}
		if err == nil {
			t.Errorf("%s: the relay lets the node in again", how)
		}
	}
}
