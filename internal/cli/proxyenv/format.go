package proxyenv

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"ginnel/configs"
)

// Format is a format in which --env prints variables.
type Format string

const (
	Shell  Format = "sh"
	Dotenv Format = "dotenv"
	GitHub Format = "github"
)

// ParseFormat parses the value of --env.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Shell, Dotenv, GitHub:
		return f, nil
	}
	return "", fmt.Errorf("%q is not a format: sh, dotenv or github is", s)
}

// Print writes the variables to w. In GitHub's format it writes masks for the secrets to runner,
// which reads the output of each step.
func (f Format) Print(w, runner io.Writer, vars []Variable, auth configs.ProxyAuth) error {
	if f == GitHub && auth != (configs.ProxyAuth{}) {
		for _, secret := range merged([]string{auth.Password, urlEscape(auth.Password)}) {
			fmt.Fprintf(runner, "::add-mask::%s\n", strings.ReplaceAll(secret, "%", "%25"))
		}
	}
	for _, v := range vars {
		if _, err := fmt.Fprintln(w, f.line(v)); err != nil {
			return err
		}
	}
	return nil
}

func (f Format) line(v Variable) string {
	switch f {
	case Shell:
		return fmt.Sprintf("export %s='%s'", v.Name, strings.ReplaceAll(v.Value, "'", `'\''`))
	case Dotenv:
		return v.Name + "=" + dotenvValue(v.Value)
	}
	if strings.ContainsAny(v.Value, "\r\n") { // the next line would be another variable
		delimiter := "ginnel_" + rand.Text()
		return v.Name + "<<" + delimiter + "\n" + v.Value + "\n" + delimiter
	}
	return v.Name + "=" + v.Value
}

// dotenvValue quotes a value that a shell or a reader of env files would split or expand. It does
// not quote others, because some readers take quotes for a part of the value.
func dotenvValue(s string) string {
	if s == "" || plainWord.MatchString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}
