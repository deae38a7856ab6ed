package proxyenv

import (
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"ginnel/internal/cli"
)

// This file has the variables of tools that do not read http_proxy and its like.

// gitSSH has git reach SSH servers through 'ginnel nc', which finds the node by GINNEL_PROXY. A
// command of the user's stays and gets a further option, whether it is in GIT_SSH_COMMAND or in
// git's setting core.sshCommand. ok is false if GIT_SSH names a
// program, because it may not take ssh's options.
func gitSSH(p cli.Program) (v Variable, ok bool) {
	const name = "GIT_SSH_COMMAND"
	self, err := os.Executable()
	if err != nil {
		return v, false
	}
	proxyCommand := strings.ReplaceAll(shellWord(self), "%", "%%") + " nc %h %p"
	option := "-o ProxyCommand=" + shellWord(proxyCommand)
	switch own := p.Getenv(name); {
	case strings.Contains(strings.ToLower(own), "proxycommand"): // the user's, or ours from a node around this one
		return Variable{name, own}, true
	case own != "":
		return Variable{name, own + " " + option}, true
	case p.Getenv("GIT_SSH") != "":
		return v, false
	}
	return Variable{name, "sh -c " + shellWord(gitSSHScript(option)) + " ssh"}, true
}

// gitSSHScript runs the command of core.sshCommand, or ssh, with an option added to those that git
// gives. GIT_SSH_COMMAND wins over the setting, so the script has to look it up. ssh takes the
// first value of an option that it is given twice, which is the user's. As git does not know the
// name sh, it finds out by 'ssh -G' what options the command takes.
func gitSSHScript(option string) string {
	return "c=$(git config core.sshCommand); set -- " + option + ` "$@"; eval "${c:-ssh} \"\$@\""`
}

// plainWord matches words that a shell takes as they are.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// shellWord quotes a word for a POSIX shell if it needs that.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// javaOptions sets the proxy properties of the JVM. The JVM sends no password from its properties,
// so they name the proxy that asks for none. Without such a proxy nothing is set, because a proxy
// that asks for a password would refuse every request of a Java program.
func javaOptions(a Access, direct []string, p cli.Program) (v Variable, ok bool) {
	const name, nonProxy = "JAVA_TOOL_OPTIONS", "-Dhttp.nonProxyHosts="
	hostPort, ok := a.withoutPassword()
	host, port, err := net.SplitHostPort(hostPort)
	if !ok || err != nil {
		return v, false
	}
	ours := []string{"-Dhttp.proxyHost=" + host, "-Dhttp.proxyPort=" + port, "-Dhttps.proxyHost=" + host,
		"-Dhttps.proxyPort=" + port}
	patterns := javaPatterns(direct)
	var kept []string
	for _, option := range strings.Fields(p.Getenv(name)) {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key+"=" == nonProxy:
			patterns = merged(strings.Split(value, "|"), patterns)
		case !slices.ContainsFunc(ours, func(o string) bool { return strings.HasPrefix(o, key+"=") }):
			kept = append(kept, option)
		}
	}
	options := append(append(kept, ours...), nonProxy+strings.Join(patterns, "|"))
	return Variable{name, strings.Join(options, " ")}, true
}

// javaPattern matches the entries that http.nonProxyHosts allows: names whose first or last part
// may be an asterisk.
var javaPattern = regexp.MustCompile(`^(\*\.?)?[A-Za-z0-9_-][A-Za-z0-9_.-]*(\*)?$|^\*$|^\[[0-9a-fA-F:]+\]$`)

// javaPatterns translates entries of no_proxy for http.nonProxyHosts, where a domain does not
// include the names below it. It omits entries that cannot be translated: ports, and prefixes of
// addresses that do not end at a dot.
func javaPatterns(direct []string) (patterns []string) {
	for _, e := range direct {
		var forms []string
		prefix, isPrefix := parsePrefix(e)
		addr, err := netip.ParseAddr(e)
		switch {
		case isPrefix && prefix.Addr().Is4() && prefix.Bits()%8 == 0 && prefix.Bits() > 0 && prefix.Bits() < 32:
			parts := strings.Split(prefix.Masked().Addr().String(), ".")
			forms = []string{strings.Join(parts[:prefix.Bits()/8], ".") + ".*"}
		case err == nil && addr.Is6():
			forms = []string{"[" + e + "]"}
		case err == nil || e == "*" || strings.HasPrefix(e, "*"):
			forms = []string{e}
		case strings.HasPrefix(e, "."):
			forms = []string{e[1:], "*" + e}
		default:
			forms = []string{e, "*." + e}
		}
		for _, f := range forms {
			if javaPattern.MatchString(f) {
				patterns = append(patterns, f)
			}
		}
	}
	return merged(patterns)
}

func parsePrefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}
