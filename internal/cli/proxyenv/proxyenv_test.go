package proxyenv

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"ginnel/configs"
	"ginnel/internal/cli"
)

// What programs are told: each variable has the form that all of its readers understand, and what
// the user has set there is kept.
func TestProxyVariables(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	secret := configs.ProxyAuth{User: "me", Password: "a b"}
	const direct = "localhost,127.0.0.1,::1"
	gitOption := " -o ProxyCommand='" + self + " nc %h %p'"
	ssh := "sh -c " + shellWord("c=$(git config core.sshCommand); set --"+gitOption+` "$@"; eval "${c:-ssh} \"\$@\""`) +
		" ssh"
	java := "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=1080 " +
		"-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1080 -Dhttp.nonProxyHosts="
	plain := map[string]string{
		"http_proxy": "http://127.0.0.1:1080", "https_proxy": "http://127.0.0.1:1080", "all_proxy": "http://127.0.0.1:1080",
		"grpc_proxy": "http://127.0.0.1:1080", "no_proxy": direct,
		"npm_config_proxy": "http://127.0.0.1:1080", "npm_config_https_proxy": "http://127.0.0.1:1080",
		"npm_config_noproxy": direct,
		"NODE_USE_ENV_PROXY": "1", "GINNEL_PROXY": "socks5h://127.0.0.1:1080", "GIT_SSH_COMMAND": ssh,
		"JAVA_TOOL_OPTIONS": java + "localhost|*.localhost|127.0.0.1|[::1]",
	}
	with := func(changes map[string]string) map[string]string {
		m := maps.Clone(plain)
		maps.Copy(m, changes)
		return m
	}
	withPassword := make(map[string]string)
	for name, value := range plain {
		if name != "JAVA_TOOL_OPTIONS" {
			withPassword[name] = strings.Replace(value, "://", "://me:a%20b@", 1)
		}
	}
	withOpen := maps.Clone(withPassword)
	withOpen["JAVA_TOOL_OPTIONS"] = strings.ReplaceAll(plain["JAVA_TOOL_OPTIONS"], "1080", "1081")
	for _, test := range []struct {
		name string
		own  map[string]string
		auth configs.ProxyAuth
		open string
		want map[string]string
	}{
		{"plain", nil, configs.ProxyAuth{}, "", plain},
		{"password", nil, secret, "", withPassword},
		{"password, and a proxy without", nil, secret, "127.0.0.1:1081", withOpen},
		{"exempt", map[string]string{"no_proxy": ".corp.example 10.0.0.0/8", "NO_PROXY": "a:8080,10.0.0.0/9",
			"npm_config_noproxy": "npm.example"}, configs.ProxyAuth{}, "",
			with(map[string]string{
				"no_proxy":           ".corp.example,10.0.0.0/8,a:8080,10.0.0.0/9," + direct,
				"npm_config_noproxy": "npm.example,.corp.example,10.0.0.0/8,a:8080,10.0.0.0/9," + direct,
				"JAVA_TOOL_OPTIONS":  java + "corp.example|*.corp.example|10.*|localhost|*.localhost|127.0.0.1|[::1]",
			})},
		{"git's command", map[string]string{"GIT_SSH_COMMAND": "ssh -i key"}, configs.ProxyAuth{}, "",
			with(map[string]string{"GIT_SSH_COMMAND": "ssh -i key" + gitOption})},
		{"git's command with a proxy", map[string]string{"GIT_SSH_COMMAND": "ssh -o ProxyCommand='nc %h %p'"},
			configs.ProxyAuth{}, "",
			with(map[string]string{"GIT_SSH_COMMAND": "ssh -o ProxyCommand='nc %h %p'"})},
		{"git's command with a proxy in other letters", map[string]string{"GIT_SSH_COMMAND": "ssh -oproxycommand=none"},
			configs.ProxyAuth{}, "",
			with(map[string]string{"GIT_SSH_COMMAND": "ssh -oproxycommand=none"})},
		{"Java's own",
			map[string]string{"JAVA_TOOL_OPTIONS": "-Xmx1g -Dhttp.proxyHost=old -Dhttp.nonProxyHosts=*.example|localhost"},
			configs.ProxyAuth{}, "",
			with(map[string]string{"JAVA_TOOL_OPTIONS": "-Xmx1g " + java + "*.example|localhost|*.localhost|127.0.0.1|[::1]"})},
		{"twice", plain, configs.ProxyAuth{}, "", plain},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := cli.Program{Getenv: func(name string) string { return test.own[name] }}
			got := make(map[string]string)
			for _, v := range Variables(Access{"127.0.0.1:1080", test.auth, test.open}, p) {
				got[v.Name] = v.Value
			}
			want := maps.Clone(test.want)
			for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy"} {
				want[strings.ToUpper(name)] = want[name]
			}
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if got[name] != want[name] {
					t.Errorf("%s is\n  %s, want\n  %s", name, got[name], want[name])
				}
				delete(got, name)
			}
			if len(got) > 0 {
				t.Errorf("also set: %v", got)
			}
		})
	}
	p := cli.Program{Getenv: func(name string) string { return map[string]string{"GIT_SSH": "plink"}[name] }}
	if v, ok := gitSSH(p); ok {
		t.Errorf("GIT_SSH_COMMAND=%s takes the place of GIT_SSH", v.Value)
	}
}

// Words pass a shell and env files unharmed.
func TestQuoting(t *testing.T) {
	v := Variable{"V", "ssh -o ProxyCommand='a\"b$c`d\\e' %h"}
	for format, want := range map[Format]string{
		Shell:  `export V='ssh -o ProxyCommand='\''a"b$c` + "`" + `d\e'\'' %h'`,
		Dotenv: `V="ssh -o ProxyCommand='a\"b\$c\` + "`" + `d\\e' %h"`,
		GitHub: "V=" + v.Value,
	} {
		if got := format.line(v); got != want {
			t.Errorf("%s: %s, want %s", format, got, want)
		}
	}
	if got := Dotenv.line(Variable{"no_proxy", "localhost,127.0.0.1,::1"}); got != "no_proxy=localhost,127.0.0.1,::1" {
		t.Errorf("quoted without need: %s", got)
	}
}

// GitHub's runner reads a value of several lines between two lines with a delimiter, which cannot
// be in the value.
func TestGitHubLines(t *testing.T) {
	value := "-Da=b\nPATH=/evil\nV<<EOF"
	text := GitHub.line(Variable{"V", value})
	head, rest, _ := strings.Cut(text, "\n")
	delimiter, ok := strings.CutPrefix(head, "V<<")
	if !ok || len(delimiter) < 20 || rest != value+"\n"+delimiter {
		t.Errorf("got %q", text)
	}
	if again := GitHub.line(Variable{"V", value}); again == text {
		t.Error("the delimiter can be guessed")
	}
	if got := GitHub.line(Variable{"V", "a\rb"}); !strings.HasPrefix(got, "V<<") {
		t.Errorf("a carriage return, which ends a line too, is raw: %q", got)
	}
}

// What the environment exempts from proxies is reached without the node, by the rules of net/http
// and the entries of both spellings.
func TestIsExempt(t *testing.T) {
	own := map[string]string{"no_proxy": ".corp.example 10.0.0.0/8", "NO_PROXY": "git.example,ports.example:22"}
	p := cli.Program{Getenv: func(name string) string { return own[name] }}
	for target, want := range map[string]bool{
		"127.0.0.1:22": true, "[::1]:22": true, "localhost:22": true, "127.9.9.9:22": true,
		"a.corp.example:22": true, "10.1.2.3:22": true, "11.1.2.3:22": false, "git.example:22": true,
		"a.git.example:22": true,
		"ports.example:22": true, "ports.example:23": false, "db:5432": false, "100.64.0.1:22": false,
	} {
		if got := IsExempt(p, target); got != want {
			t.Errorf("%s: %v, want %v", target, got, want)
		}
	}
}
