package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"ginnel/configs"
)

// envFormat is how --env prints them.
type envFormat string

const (
	envShell  envFormat = "sh"
	envDotenv envFormat = "dotenv"
	envGitHub envFormat = "github"
)

func parseEnvFormat(s string) (envFormat, error) {
	switch f := envFormat(s); f {
	case envShell, envDotenv, envGitHub:
		return f, nil
	}
	return "", fmt.Errorf("%q is not a format: sh, dotenv or github is", s)
}

// print writes the variables to w. It tells GitHub's runner, which reads the output of a step, what
// to hide there.
func (f envFormat) print(w, runner io.Writer, vars []variable, auth configs.ProxyAuth) error {
	if f == envGitHub && auth != (configs.ProxyAuth{}) {
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

func (f envFormat) line(v variable) string {
	switch f {
	case envShell:
		return fmt.Sprintf("export %s='%s'", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	case envDotenv:
		return v.name + "=" + dotenvValue(v.value)
	}
	if strings.ContainsAny(v.value, "\r\n") { // the next line would be another variable
		delimiter := "ginnel_" + rand.Text()
		return v.name + "<<" + delimiter + "\n" + v.value + "\n" + delimiter
	}
	return v.name + "=" + v.value
}

// dotenvValue quotes a value that a shell or a reader of env files would take apart. Others stay as
// they are, because some readers take quotes for a part of the value.
func dotenvValue(s string) string {
	if s == "" || plainWord.MatchString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}
